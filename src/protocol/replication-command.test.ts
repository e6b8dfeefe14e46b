/** Replication commands: what real tools send, the grammar as a table, and what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import { INVALID_LSN, lsn, timelineId } from '../wal/lsn.ts';
import {
  type ReplicationCommand,
  checkSlotName,
  formatCreateSlot,
  formatDropSlot,
  formatReadSlot,
  formatStartReplication,
  parseReplicationCommand,
  quoteIdentifier,
} from './replication-command.ts';

const V13 = 130_023;
const V14 = 140_023;
const V15 = 150_018;
const V16 = 160_014;
const V17 = 170_010;
const V18 = 180_006;
const ALL = [V13, V14, V15, V16, V17, V18];
const BEFORE_15 = [V13, V14];
const SINCE_15 = [V15, V16, V17, V18];
const BEFORE_17 = [V13, V14, V15, V16];
const SINCE_17 = [V17, V18];

const slot = { kind: 'create-replication-slot', temporary: false, reserveWal: false } as const;
const start = { kind: 'start-replication', start: lsn(0x500_0000n) } as const;

const commands: [string, readonly number[], ReplicationCommand][] = [
  ['IDENTIFY_SYSTEM', ALL, { kind: 'identify-system' }],
  [' \t\r\n\f\vIDENTIFY_SYSTEM ; ', ALL, { kind: 'identify-system' }],
  ['SHOW data_directory_mode', ALL, { kind: 'show', name: 'data_directory_mode' }],
  ['SHOW wal_segment_size', ALL, { kind: 'show', name: 'wal_segment_size' }],
  ['SHOW ALL', ALL, { kind: 'show', name: 'all' }],
  ['SHOW walcade.node_id', ALL, { kind: 'show', name: 'walcade.node_id' }],
  ['SHOW "TimeZone"', ALL, { kind: 'show', name: 'TimeZone' }],
  ['TIMELINE_HISTORY 2', ALL, { kind: 'timeline-history', timeline: timelineId(2) }],
  [
    'TIMELINE_HISTORY 4294967295',
    ALL,
    { kind: 'timeline-history', timeline: timelineId(2 ** 32 - 1) },
  ],
  [
    'CREATE_REPLICATION_SLOT "pg_walreceiver_42" TEMPORARY PHYSICAL RESERVE_WAL',
    ALL,
    { ...slot, name: 'pg_walreceiver_42', temporary: true, reserveWal: true },
  ],
  [
    'CREATE_REPLICATION_SLOT "pg_basebackup_7" TEMPORARY PHYSICAL ( RESERVE_WAL)',
    SINCE_15,
    { ...slot, name: 'pg_basebackup_7', temporary: true, reserveWal: true },
  ],
  ['CREATE_REPLICATION_SLOT "rs" PHYSICAL', ALL, { ...slot, name: 'rs' }],
  ['CREATE_REPLICATION_SLOT Rs PHYSICAL', ALL, { ...slot, name: 'rs' }],
  [
    'CREATE_REPLICATION_SLOT rs PHYSICAL (RESERVE_WAL true)',
    SINCE_15,
    { ...slot, name: 'rs', reserveWal: true },
  ],
  [
    'CREATE_REPLICATION_SLOT rs PHYSICAL ("reserve_wal" \'OFF\')',
    SINCE_15,
    { ...slot, name: 'rs' },
  ],
  ['CREATE_REPLICATION_SLOT rs PHYSICAL (reserve_wal 0)', SINCE_15, { ...slot, name: 'rs' }],
  [
    'CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput (SNAPSHOT \'nothing\')',
    ALL,
    { kind: 'create-logical-slot', name: 's' },
  ],
  ['READ_REPLICATION_SLOT rs', SINCE_15, { kind: 'read-replication-slot', name: 'rs' }],
  ['READ_REPLICATION_SLOT "rs"', SINCE_15, { kind: 'read-replication-slot', name: 'rs' }],
  ['DROP_REPLICATION_SLOT "rs"', ALL, { kind: 'drop-replication-slot', name: 'rs', wait: false }],
  [
    'DROP_REPLICATION_SLOT rs WAIT;',
    ALL,
    { kind: 'drop-replication-slot', name: 'rs', wait: true },
  ],
  [
    'ALTER_REPLICATION_SLOT "rs" ( FAILOVER true, TWO_PHASE )',
    SINCE_17,
    { kind: 'alter-replication-slot', name: 'rs' },
  ],
  ['UPLOAD_MANIFEST', SINCE_17, { kind: 'upload-manifest' }],
  ['START_REPLICATION 0/5000000', ALL, start],
  ['START_REPLICATION PHYSICAL 0/05000000', ALL, start],
  ['START_REPLICATION 0/5000000 TIMELINE 1', ALL, { ...start, timeline: timelineId(1) }],
  [
    'START_REPLICATION SLOT "name" 0/5000000 TIMELINE 1',
    ALL,
    { ...start, slot: 'name', timeline: timelineId(1) },
  ],
  [
    'START_REPLICATION SLOT "a" PHYSICAL abcDEF/00000000',
    ALL,
    { kind: 'start-replication', slot: 'a', start: lsn(0xabcdef_0000_0000n) },
  ],
  ['START_REPLICATION 0/0', ALL, { kind: 'start-replication', start: INVALID_LSN }],
  [
    'START_REPLICATION SLOT "sub" LOGICAL 0/0 (proto_version \'4\', publication_names \'"p"\')',
    ALL,
    { kind: 'start-logical-replication', slot: 'sub' },
  ],
];

for (const [text, versions, command] of commands) {
  test(`${JSON.stringify(text)} is understood`, () => {
    for (const version of versions) {
      assert.deepEqual(parseReplicationCommand(text, version), command, `by ${version}`);
    }
  });
}

const sql: [string, readonly number[]][] = [
  ['', ALL],
  [';', ALL],
  ['SELECT 1', ALL],
  ['-- IDENTIFY_SYSTEM', ALL],
  ['/* a */ SHOW x', ALL],
  ['identify_system', ALL],
  ['Show x', ALL],
  ['"SHOW" x', ALL],
  ['IDENTIFY_SYSTEMS', ALL],
  ['SLOT', ALL],
  ['0/0', ALL],
  ['READ_REPLICATION_SLOT rs', BEFORE_15],
  ['ALTER_REPLICATION_SLOT rs (FAILOVER)', BEFORE_17],
  ['UPLOAD_MANIFEST', BEFORE_17],
  ['SELECT pg_catalog.pg_is_in_recovery()', ALL],
];

test('what begins with no replication keyword of the version is SQL', () => {
  for (const [text, versions] of sql) {
    for (const version of versions) {
      assert.deepEqual(parseReplicationCommand(text, version), { kind: 'sql', text }, text);
    }
  }
});

const syntaxErrors: [string, readonly number[]][] = [
  ['IDENTIFY_SYSTEM x', ALL],
  ['IDENTIFY_SYSTEM;;', ALL],
  ['SHOW', ALL],
  ['SHOW a.', ALL],
  ["SHOW 'a'", ALL],
  ['SHOW SLOT', ALL],
  ['TIMELINE_HISTORY', ALL],
  ['TIMELINE_HISTORY x', ALL],
  ['TIMELINE_HISTORY -1', ALL],
  ['CREATE_REPLICATION_SLOT', ALL],
  ['CREATE_REPLICATION_SLOT "rs"', ALL],
  ['CREATE_REPLICATION_SLOT "rs" physical', ALL],
  ['CREATE_REPLICATION_SLOT "rs" PHYSICAL TEMPORARY', ALL],
  ['CREATE_REPLICATION_SLOT "rs" PHYSICAL ()', ALL],
  ['CREATE_REPLICATION_SLOT "rs" PHYSICAL (RESERVE_WAL', ALL],
  ['CREATE_REPLICATION_SLOT "rs" PHYSICAL (RESERVE_WAL)', BEFORE_15],
  ['CREATE_REPLICATION_SLOT "rs" PHYSICAL RESERVE_WAL RESERVE_WAL', BEFORE_15],
  ['CREATE_REPLICATION_SLOT SLOT PHYSICAL', ALL],
  ['READ_REPLICATION_SLOT', SINCE_15],
  ['DROP_REPLICATION_SLOT', ALL],
  ['DROP_REPLICATION_SLOT rs wait', ALL],
  ['ALTER_REPLICATION_SLOT rs', SINCE_17],
  ['START_REPLICATION', ALL],
  ['START_REPLICATION 5', ALL],
  ['START_REPLICATION SLOT 0/0', ALL],
  ['START_REPLICATION LOGICAL 0/0', ALL],
  ['START_REPLICATION 0/0 TIMELINE', ALL],
  ['START_REPLICATION 0/0 timeline 1', ALL],
];

test('what begins with a replication keyword and is no command is a syntax error', () => {
  for (const [text, versions] of syntaxErrors) {
    for (const version of versions) {
      assert.throws(
        () => parseReplicationCommand(text, version),
        { sqlstate: '42601', message: 'syntax error' },
        `${text} by ${version}`,
      );
    }
  }
});

test('other mistakes are refused in words of their own', () => {
  const create = 'CREATE_REPLICATION_SLOT rs PHYSICAL';
  const mistakes: [string, string][] = [
    ['TIMELINE_HISTORY 0', 'invalid timeline 0'],
    ['START_REPLICATION 0/0 TIMELINE 0', 'invalid timeline 0'],
    ['TIMELINE_HISTORY 4294967296', 'integer out of range: 4294967296'],
    ['START_REPLICATION 123456789/0', 'invalid streaming start location "123456789/0"'],
    ["SHOW 'abc", 'unterminated quoted string'],
    ['SHOW "abc', 'unterminated quoted string'],
    [`${create} (RESERVE_WAL, reserve_wal)`, 'conflicting or redundant options'],
    [`${create} RESERVE_WAL RESERVE_WAL`, 'conflicting or redundant options'],
    [`${create} USE_SNAPSHOT`, 'conflicting or redundant options'],
    [`${create} (SNAPSHOT 'export')`, 'conflicting or redundant options'],
    [`${create} (RESERVE_WAL maybe)`, 'reserve_wal requires a Boolean value'],
    [`${create} (RESERVE_WAL 2)`, 'reserve_wal requires a Boolean value'],
  ];
  for (const [text, message] of mistakes) {
    assert.throws(() => parseReplicationCommand(text, V18), { sqlstate: '42601', message }, text);
  }
  assert.throws(() => parseReplicationCommand(`${create} (bogus)`, V18), {
    sqlstate: 'XX000',
    message: 'unrecognized option: bogus',
  });
});

test('a slot that is created must have a name that a slot can have', () => {
  assert.throws(() => parseReplicationCommand('CREATE_REPLICATION_SLOT "Bad Name" PHYSICAL', V18), {
    sqlstate: '42602',
    message: 'replication slot name "Bad Name" contains invalid character',
    hint:
      'Replication slot names may only contain lower case letters, numbers, ' +
      'and the underscore character.',
  });
  assert.throws(() => checkSlotName(''), {
    sqlstate: '42602',
    message: 'replication slot name "" is too short',
  });
  for (const name of ['x'.repeat(64), '../x', 'a.b', 'é', 'a\n']) {
    assert.throws(() => checkSlotName(name), { sqlstate: '42602' });
  }
  checkSlotName('pg_walreceiver_4711');
  checkSlotName('x'.repeat(63));
});

test('any text is understood, is SQL, or is refused', () => {
  const words =
    'IDENTIFY_SYSTEM SHOW START_REPLICATION SLOT CREATE_REPLICATION_SLOT BASE_BACKUP PHYSICAL ' +
    'LABEL TIMELINE ALTER_REPLICATION_SLOT WAIT ( ) , ; " \' "a" \'b\' 0/0 1 name . é \u{10ffff}';
  const word = fc.constantFrom(...words.split(' '));
  const version = fc.constantFrom(...ALL);
  const text = fc.oneof(
    fc.array(word).map((words) => words.join(' ')),
    fc.array(word).map((words) => words.join('')),
    fc.string({ unit: 'binary' }),
  );
  fc.assert(
    fc.property(text, version, (command, serverVersionNum) => {
      try {
        parseReplicationCommand(command, serverVersionNum);
      } catch (error) {
        assert.ok(error instanceof WalcadeError);
        assert.ok(['42601', '42602', 'XX000'].includes(error.sqlstate));
      }
    }),
    { numRuns: 1000 },
  );
});

test('commands are formatted as the tools of PostgreSQL send them', () => {
  assert.equal(
    formatStartReplication({ start: lsn(0x500_0000n) }),
    'START_REPLICATION PHYSICAL 0/5000000',
  );
  assert.equal(
    formatStartReplication({ slot: 'a', start: lsn(1n), timeline: timelineId(3) }),
    'START_REPLICATION SLOT "a" PHYSICAL 0/1 TIMELINE 3',
  );
  const options = { temporary: true, reserveWal: true };
  assert.equal(
    formatCreateSlot('a', { ...options, serverVersionNum: V14 }),
    'CREATE_REPLICATION_SLOT "a" TEMPORARY PHYSICAL RESERVE_WAL',
  );
  assert.equal(
    formatCreateSlot('a', { ...options, serverVersionNum: V15 }),
    'CREATE_REPLICATION_SLOT "a" TEMPORARY PHYSICAL (RESERVE_WAL)',
  );
  assert.equal(formatReadSlot('a'), 'READ_REPLICATION_SLOT "a"');
  assert.equal(formatDropSlot('a'), 'DROP_REPLICATION_SLOT "a"');
  assert.equal(formatDropSlot('a', { wait: true }), 'DROP_REPLICATION_SLOT "a" WAIT');
  assert.equal(quoteIdentifier('a"b'), '"a""b"');
});

test('every formatted command is understood by the version that it is for', () => {
  const name = fc.stringMatching(/^[a-z0-9_]{1,63}$/);
  const version = fc.constantFrom(...ALL);
  const position = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(lsn);
  const timeline = fc.integer({ min: 1, max: 2 ** 32 - 1 }).map(timelineId);
  fc.assert(
    fc.property(name, version, fc.boolean(), fc.boolean(), (slotName, serverVersionNum, a, b) => {
      const options = { temporary: a, reserveWal: b };
      const text = formatCreateSlot(slotName, { ...options, serverVersionNum });
      assert.deepEqual(parseReplicationCommand(text, serverVersionNum), {
        kind: 'create-replication-slot',
        name: slotName,
        ...options,
      });
    }),
  );
  fc.assert(
    fc.property(name, position, timeline, version, (slotName, from, on, serverVersionNum) => {
      const wanted = { slot: slotName, start: from, timeline: on };
      assert.deepEqual(parseReplicationCommand(formatStartReplication(wanted), serverVersionNum), {
        kind: 'start-replication',
        ...wanted,
      });
    }),
  );
});
