/**
 * Connection strings mean what they mean to libpq: tables of cases with its behaviour as oracle.
 */
import assert from 'node:assert/strict';
import { userInfo } from 'node:os';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import {
  allowsAuthentication,
  checkSupported,
  describeConninfo,
  formatConninfo,
  parseConninfo,
  socketPath,
} from './conninfo.ts';
import { parseConninfoPairs } from './conninfo-syntax.ts';

const pairsOf = (text: string): Record<string, string> =>
  Object.fromEntries(parseConninfoPairs(text));

const addressesOf = (text: string): string[] =>
  parseConninfo(text).addresses.map(({ host, port }) => `${host} ${port}`);

const SYNTAX: [text: string, pairs: Record<string, string>][] = [
  ['port=4001 user=depesz', { port: '4001', user: 'depesz' }],
  ['  port = 4001\tuser =\ndepesz ', { port: '4001', user: 'depesz' }],
  [`host='a b' user=''`, { host: 'a b', user: '' }],
  [
    String.raw`user='it\'s' dbname=a\ b password=\\`,
    { user: "it's", dbname: 'a b', password: '\\' },
  ],
  [`user=a'b`, { user: "a'b" }],
  [`user='a'port=1`, { user: 'a', port: '1' }],
  ['user=a user=b', { user: 'b' }],
  ['user=', { user: '' }],
  ['user=a\\', { user: 'a' }],
  ['options=-c\\ a=b', { options: '-c a=b' }],
  ['postgresql://', {}],
  ['postgresql://localhost', { host: 'localhost' }],
  [
    'postgres://user:pw@h1:1,h2:2/db?sslmode=disable&application_name=x',
    {
      user: 'user',
      password: 'pw',
      host: 'h1,h2',
      port: '1,2',
      dbname: 'db',
      sslmode: 'disable',
      application_name: 'x',
    },
  ],
  ['postgresql://[::1]:5433/db', { host: '::1', port: '5433', dbname: 'db' }],
  ['postgresql://[::1],[fe80::2]:1', { host: '::1,fe80::2', port: ',1' }],
  ['postgresql://%2Ftmp/db', { host: '/tmp', dbname: 'db' }],
  ['postgresql:///db?host=/tmp&port=1', { dbname: 'db', host: '/tmp', port: '1' }],
  ['postgresql://us%40er:p%3Aw@h/', { user: 'us@er', password: 'p:w', host: 'h' }],
  ['postgresql://:pw@h', { password: 'pw', host: 'h' }],
  ['postgresql://user@/db', { user: 'user', dbname: 'db' }],
  ['postgresql://h?ssl=true', { host: 'h', sslmode: 'require' }],
  ['postgresql://h/db?', { host: 'h', dbname: 'db' }],
];

const REFUSED: [text: string, message: string][] = [
  ['', 'connection info string is empty'],
  ['  ', 'connection info string is empty'],
  ['foo', 'missing "=" after "foo" in connection info string'],
  ['port 5432', 'missing "=" after "port" in connection info string'],
  [`user='a`, 'unterminated quoted string in connection info string'],
  ['foo=1', 'invalid connection option "foo"'],
  ['postgresql://h?foo=1', 'invalid URI query parameter: "foo"'],
  ['postgresql://h?port', 'missing key/value separator "=" in URI query parameter: "port"'],
  ['postgresql://h?port=1=2', 'extra key/value separator "=" in URI query parameter: "port"'],
  ['postgresql://%zz', 'invalid percent-encoded token: "%zz"'],
  ['postgresql://a%00', 'forbidden value %00 in percent-encoded value: "a%00"'],
  [
    'postgresql://[::1',
    'end of string reached when looking for matching "]" in IPv6 host address in URI',
  ],
  ['postgresql://[]', 'IPv6 host address may not be empty in URI'],
  ['postgresql://[::1]x', 'unexpected character "x" at position 19 in URI (expected ":" or "/")'],
  ['host=a,b port=1,2,3', 'could not match 3 port numbers to 2 hosts'],
  ['port=1,2', 'could not match 2 port numbers to 1 hosts'],
  ['host=a,b hostaddr=1.2.3.4', 'could not match 2 host names to 1 hostaddr values'],
  ['hostaddr=example.com', 'could not parse network address "example.com"'],
  ['port=abc', 'invalid integer value "abc" for connection option "port"'],
  ['port=0', 'invalid port number: "0"'],
  ['port=65536', 'invalid port number: "65536"'],
  ['sslmode=on', 'invalid sslmode value: "on"'],
  ['gssencmode=on', 'invalid gssencmode value: "on"'],
  ['channel_binding=on', 'invalid channel_binding value: "on"'],
  ['target_session_attrs=rw', 'invalid target_session_attrs value: "rw"'],
  ['require_auth=ident', 'invalid require_auth value: "ident"'],
  [
    'require_auth=md5,!none',
    'negative require_auth method "!none" cannot be mixed with non-negative methods',
  ],
  ['require_auth=!md5,none', 'require_auth method "none" cannot be mixed with negative methods'],
  ['require_auth=md5,md5', 'require_auth method "md5" is specified more than once'],
  ['connect_timeout=5s', 'invalid integer value "5s" for connection option "connect_timeout"'],
  [
    'sslrootcert=system sslmode=require',
    'weak sslmode "require" may not be used with sslrootcert=system (use "verify-full")',
  ],
];

const ADDRESSES: [text: string, addresses: string[]][] = [
  ['port=4001 user=depesz', ['/var/run/postgresql 4001', '/tmp 4001', 'localhost 4001']],
  ['user=a', ['/var/run/postgresql 5432', '/tmp 5432', 'localhost 5432']],
  ['host=a,b', ['a 5432', 'b 5432']],
  ['host=a,b port=1', ['a 1', 'b 1']],
  ['host=a,b port=1,2', ['a 1', 'b 2']],
  ['host=a,b port=,2', ['a 5432', 'b 2']],
  ['host=a, port=7', ['a 7', '/var/run/postgresql 7', '/tmp 7', 'localhost 7']],
  ['host=/run/x port=1', ['/run/x 1']],
  ['host=name hostaddr=10.0.0.1', ['10.0.0.1 5432']],
  ['host=a,b hostaddr=10.0.0.1,', ['10.0.0.1 5432', 'b 5432']],
  ['postgresql://h1,h2:2', ['h1 5432', 'h2 2']],
];

describe('connection strings', () => {
  for (const [text, pairs] of SYNTAX) {
    test(`${JSON.stringify(text)} is read as libpq reads it`, () => {
      assert.deepEqual(pairsOf(text), pairs);
    });
  }

  for (const [text, message] of REFUSED) {
    test(`${JSON.stringify(text)} is refused: ${message}`, () => {
      assert.throws(() => parseConninfo(text), { name: 'WalcadeError', message });
    });
  }

  for (const [text, addresses] of ADDRESSES) {
    test(`${JSON.stringify(text)} tries ${addresses.join(', ')}`, () => {
      assert.deepEqual(addressesOf(text), addresses);
    });
  }

  test('a socket is found in its directory or in the abstract name space', () => {
    assert.equal(socketPath({ host: '/tmp', port: 4001 }), '/tmp/.s.PGSQL.4001');
    assert.equal(socketPath({ host: '@walcade', port: 1 }), '\0walcade/.s.PGSQL.1');
  });

  test('the name beside a hostaddr is kept for the password file', () => {
    assert.deepEqual(parseConninfo('host=name hostaddr=10.0.0.1').addresses, [
      { host: '10.0.0.1', port: 5432, hostName: 'name' },
    ]);
  });

  test('the user is the operating system user if none or an empty one is given', () => {
    assert.equal(parseConninfo('port=1').user, userInfo().username);
    assert.equal(parseConninfo(`user='' port=1`).user, userInfo().username);
  });

  test('the values have their units, and defaults are libpq defaults', () => {
    const conninfo = parseConninfo(
      'connect_timeout=10 keepalives_idle=30 keepalives_count=3 tcp_user_timeout=500 ' +
        'fallback_application_name=walcade',
    );
    assert.equal(conninfo.connectTimeoutMs, 10_000);
    assert.deepEqual(conninfo.keepalives, {
      enabled: true,
      idleMs: 30_000,
      count: 3,
      tcpUserTimeoutMs: 500,
    });
    assert.equal(conninfo.applicationName, 'walcade');
    assert.equal(conninfo.sslmode, 'prefer');
    assert.equal(conninfo.targetSessionAttrs, 'any');
    assert.equal(conninfo.loadBalanceHosts, false);
    assert.equal(parseConninfo('connect_timeout=0').connectTimeoutMs, undefined);
  });

  for (const text of [
    'sslmode=require',
    'sslmode=verify-ca',
    'sslmode=verify-full',
    'sslrootcert=system',
    'requiressl=1',
    'postgresql://h?ssl=true',
    'sslnegotiation=direct',
    'sslcertmode=require',
    'gssencmode=require',
    'channel_binding=require',
    'require_auth=gss',
    'requirepeer=postgres',
    'service=main',
    'min_protocol_version=3.2',
  ]) {
    test(`${text} is refused as not supported, not ignored`, () => {
      const conninfo = parseConninfo(text);
      assert.throws(() => checkSupported(conninfo), { sqlstate: '0A000' });
    });
  }

  test('what asks for nothing that is missing is supported', () => {
    for (const text of ['host=a', 'sslmode=prefer', 'require_auth=none', 'require_auth=!md5']) {
      checkSupported(parseConninfo(text));
    }
  });

  test('require_auth decides about every method, none included', () => {
    const scram = parseConninfo('require_auth=scram-sha-256');
    assert.equal(allowsAuthentication(scram, 'scram-sha-256'), true);
    assert.equal(allowsAuthentication(scram, 'none'), false);
    assert.equal(allowsAuthentication(parseConninfo('require_auth=!md5'), 'md5'), false);
    assert.equal(allowsAuthentication(parseConninfo('host=a'), 'md5'), true);
  });

  test('a description shows no secret, in either form', () => {
    const shown = describeConninfo('postgresql://u:hush@h/db?sslpassword=hush');
    assert.equal(shown, 'user=u host=h dbname=db');
  });

  test('any pairs survive formatting and parsing', () => {
    const value = fc.string({ unit: 'binary' }).filter((text) => !text.includes('\0'));
    const keyword = fc.constantFrom('host', 'user', 'password', 'dbname', 'options');
    fc.assert(
      fc.property(fc.dictionary(keyword, value, { noNullPrototype: true }), (pairs) => {
        assert.deepEqual(pairsOf(formatConninfo(pairs)), pairs);
      }),
    );
  });

  test('any text is parsed or refused with an SQLSTATE', () => {
    const pieces = fc.constantFrom('=', "'", '\\', ' ', '%', '[', ']', ':', '@', '?', '&', 'port');
    const text = fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: pieces }));
    fc.assert(
      fc.property(fc.constantFrom('', 'postgresql://'), text, (prefix, rest) => {
        try {
          parseConninfo(prefix + rest);
        } catch (error) {
          assert.equal((error as Error).name, 'WalcadeError');
        }
      }),
    );
  });
});
