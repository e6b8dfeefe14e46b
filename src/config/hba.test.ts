/**
 * walcade_hba.conf decides as pg_hba.conf does: tables of cases with hba.c as oracle.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { type HbaClient, hbaRefusal, matchHba, parseHba } from './hba.ts';
import { cidrMask, parseIpAddress } from './ip-address.ts';

const FILE = 'walcade_hba.conf';
const TCP: HbaClient = {
  transport: 'tcp',
  address: '10.1.2.3',
  user: 'repl',
  database: 'replication',
  replication: true,
};
const SQL: HbaClient = { ...TCP, database: 'shop', replication: false };
const LOCAL: HbaClient = { transport: 'local', user: 'repl', database: 'shop', replication: false };

const own = () => [
  { address: Uint8Array.of(10, 1, 0, 1), mask: Uint8Array.of(255, 255, 0, 0) },
  { address: Uint8Array.of(127, 0, 0, 1), mask: Uint8Array.of(255, 0, 0, 0) },
];
const decide = (text: string, client: HbaClient): string =>
  matchHba(parseHba(text, FILE), client, { own }).kind;

const DECISIONS: [rules: string, client: HbaClient, kind: string][] = [
  ['host replication all 10.0.0.0/8 trust', TCP, 'trust'],
  ['host replication repl 10.1.2.3/32 reject', TCP, 'reject'],
  ['host all all all trust', TCP, 'no-match'],
  ['host all,replication all all trust', TCP, 'trust'],
  ['host "replication" all all trust', TCP, 'no-match'],
  ['host replication all all trust', SQL, 'no-match'],
  ['host "replication" all all trust', { ...SQL, database: 'replication' }, 'trust'],
  ['host all all 0.0.0.0/0 trust', SQL, 'trust'],
  ['host all all ::/0 trust', SQL, 'no-match'],
  ['host all all ::/0 trust', { ...SQL, address: 'fe80::1%eth0' }, 'trust'],
  ['host all all 10.1.2.0/24 trust', { ...SQL, address: '::ffff:10.1.2.9' }, 'trust'],
  ['host all all ::ffff:10.1.2.0/120 trust', SQL, 'trust'],
  ['host all all 2001:db8::/33 trust', { ...SQL, address: '2001:db8:7fff::1' }, 'trust'],
  ['host all all 2001:db8::/33 trust', { ...SQL, address: '2001:db8:8000::1' }, 'no-match'],
  ['host all all 10.1.0.0 255.255.0.0 trust', SQL, 'trust'],
  ['host all all 10.2.0.0 255.255.0.0 trust', SQL, 'no-match'],
  ['host all all samenet trust', SQL, 'trust'],
  ['host all all samehost trust', SQL, 'no-match'],
  ['host all all samehost trust', { ...SQL, address: '10.1.0.1' }, 'trust'],
  ['host all all samehost trust', { ...SQL, localAddress: '10.1.2.3' }, 'trust'],
  ['host shop,"other db" repl all trust', SQL, 'trust'],
  ['host "other db" repl all trust', { ...SQL, database: 'other db' }, 'trust'],
  ['host sameuser all all trust', { ...SQL, database: 'repl' }, 'trust'],
  ['host sameuser all all trust', SQL, 'no-match'],
  ['host all "all" all trust', SQL, 'no-match'],
  ['host all someone, repl all trust', SQL, 'trust'],
  ['hostssl all all all trust', SQL, 'no-match'],
  ['hostgssenc all all all trust', SQL, 'no-match'],
  ['hostnossl all all all trust', SQL, 'trust'],
  ['hostnogssenc all all all trust', SQL, 'trust'],
  ['local all all trust', SQL, 'no-match'],
  ['local all all trust', LOCAL, 'trust'],
  ['host all all all trust', LOCAL, 'no-match'],
  ['local all repl reject\nlocal all all trust', LOCAL, 'reject'],
  ['local all other trust # comment\n\nlocal all repl trust', LOCAL, 'trust'],
  ['local all \\\n repl trust', LOCAL, 'trust'],
  ['host all all all trust', { ...SQL, address: 'garbage' }, 'no-match'],
];

const REFUSED: [line: string, error: string][] = [
  ['lokal all all trust', 'invalid connection type "lokal"'],
  [
    'local,host all all trust',
    'multiple values specified for connection type: ' +
      'Specify exactly one connection type per line.',
  ],
  ['local', 'end-of-line before database specification'],
  ['local all', 'end-of-line before role specification'],
  ['host all all', 'end-of-line before IP address specification'],
  ['host all all 10.0.0.1', 'end-of-line before netmask specification'],
  ['host all all 10.0.0.1 trust', 'invalid IP mask "trust"'],
  ['host all all 10.0.0.1 ffff:: trust', 'IP address and mask do not match'],
  ['host all all 10.0.0.0/33 trust', 'invalid CIDR mask in address "10.0.0.0/33"'],
  ['host all all ::1/ trust', 'invalid CIDR mask in address "::1/"'],
  ['host all all ::ffff:10.0.0.0/8 trust', 'invalid CIDR mask in address "::ffff:10.0.0.0/8"'],
  [
    'host all all db.example/32 trust',
    'specifying both host name and CIDR mask is invalid: "db.example/32"',
  ],
  [
    'host all all db.example trust',
    'host name "db.example" is not supported yet: Use an IP address.',
  ],
  ['local all all', 'end-of-line before authentication method'],
  ['local all all scram-sha-256', 'authentication method "scram-sha-256" is not supported yet'],
  ['local all all thrust', 'invalid authentication method "thrust"'],
  ['local all all trust map', 'authentication option not in name=value format: map'],
  ['local all all trust map=x', 'unrecognized authentication option name: "map"'],
  ['local all +admins trust', '"+admins" in a database or role specification is not supported yet'],
  ['local /^a all trust', '"/^a" in a database or role specification is not supported yet'],
  [
    'local samerole all trust',
    '"samerole" in a database or role specification is not supported yet',
  ],
];

describe('walcade_hba.conf', () => {
  for (const [rules, client, kind] of DECISIONS) {
    const who = `${client.transport} ${client.address ?? ''} ${client.user} ${client.database}`;
    const what = client.replication ? ' replication' : '';
    test(`${JSON.stringify(rules)} for ${who}${what}: ${kind}`, () => {
      assert.equal(decide(rules, client), kind);
    });
  }

  for (const [line, error] of REFUSED) {
    test(`${JSON.stringify(line)} is refused: ${error}`, () => {
      assert.throws(() => parseHba(`\n${line}`, FILE), {
        sqlstate: 'F0000',
        message: `configuration file "${FILE}" contains errors`,
        detail: `line 2 of configuration file "${FILE}": ${error}`,
      });
    });
  }

  test('all errors are told at once', () => {
    assert.throws(() => parseHba('local all all trust\nfoo\nlocal all all md5', FILE), {
      detail:
        `line 2 of configuration file "${FILE}": invalid connection type "foo"\n` +
        `line 3 of configuration file "${FILE}": authentication method "md5" is not supported yet`,
    });
  });

  test('a file without a rule is refused', () => {
    assert.throws(() => parseHba('# nothing\n', FILE), {
      sqlstate: 'F0000',
      message: `configuration file "${FILE}" contains no entries`,
    });
  });

  test('a quoted name may look like something that is not supported', () => {
    assert.equal(decide('local all "+repl" trust', { ...LOCAL, user: '+repl' }), 'trust');
  });

  test('refusals have the words of PostgreSQL, with the name of our file', () => {
    const [rule] = parseHba('local all all reject', FILE);
    assert.ok(rule);
    const messages = [TCP, SQL, LOCAL].flatMap((client) => [
      hbaRefusal({ kind: 'no-match' }, client).message,
      hbaRefusal({ kind: 'reject', rule }, client).message,
    ]);
    assert.deepEqual(messages, [
      'no walcade_hba.conf entry for replication connection from host "10.1.2.3", user "repl", ' +
        'no encryption',
      'walcade_hba.conf rejects replication connection for host "10.1.2.3", user "repl", ' +
        'no encryption',
      'no walcade_hba.conf entry for host "10.1.2.3", user "repl", database "shop", no encryption',
      'walcade_hba.conf rejects connection for host "10.1.2.3", user "repl", database "shop", ' +
        'no encryption',
      'no walcade_hba.conf entry for host "[local]", user "repl", database "shop", no encryption',
      'walcade_hba.conf rejects connection for host "[local]", user "repl", database "shop", ' +
        'no encryption',
    ]);
    assert.equal(hbaRefusal({ kind: 'no-match' }, TCP).sqlstate, '28000');
  });

  test('any text is parsed or refused with an SQLSTATE', () => {
    const word = fc.constantFrom('host', 'all', '"', ',', '\n', '\\', '#', '::1/64', ' ', 'trust');
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.string({ unit: word })), (text) => {
        try {
          parseHba(text, FILE);
        } catch (error) {
          assert.equal((error as { sqlstate?: string }).sqlstate, 'F0000');
        }
      }),
    );
  });
});

describe('IP addresses', () => {
  test('IPv6 is read with its zeros, dotted tail and zone', () => {
    const hex = (text: string) => Buffer.from(parseIpAddress(text) ?? []).toString('hex');
    assert.equal(hex('::1'), '00000000000000000000000000000001');
    assert.equal(hex('2001:db8::1:2'), '20010db8000000000000000000010002');
    assert.equal(hex('1:2:3:4:5:6:7:8'), '00010002000300040005000600070008');
    assert.equal(hex('64:ff9b::10.1.2.3'), '0064ff9b00000000000000000a010203');
    assert.equal(hex('fe80::1%eth0'), 'fe800000000000000000000000000001');
    assert.equal(hex('::ffff:10.1.2.3'), '0a010203');
    assert.equal(parseIpAddress('10.1.2'), undefined);
  });

  test('a CIDR mask has that many ones', () => {
    assert.deepEqual(cidrMask(0, 4), Uint8Array.of(0, 0, 0, 0));
    assert.deepEqual(cidrMask(9, 4), Uint8Array.of(255, 128, 0, 0));
    assert.deepEqual(cidrMask(32, 4), Uint8Array.of(255, 255, 255, 255));
  });
});
