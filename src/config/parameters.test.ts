/**
 * Parameter values are read and shown as guc.c does it: tables of cases with its behaviour as
 * oracle.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import {
  type ParameterKey,
  PARAMETERS,
  findParameter,
  nodeConfig,
  parameter,
  parseParameter,
  showConfig,
  showParameter,
} from './parameters.ts';
import {
  formatInteger,
  formatList,
  parseBool,
  parseInteger,
  parseList,
} from './parameter-values.ts';

const parse = (name: string, text: string): unknown => {
  const key = findParameter(name);
  assert.ok(key);
  return parseParameter(parameter(key), text);
};

const VALUES: [name: string, text: string, value: unknown, shown: string][] = [
  ['port', '4001', 4001, '4001'],
  ['port', ' 0x1000 ', 4096, '4096'],
  ['port', '010', 8, '8'],
  ['port', '1e3', 1000, '1000'],
  ['port', '5432.4', 5432, '5432'],
  ['unix_socket_permissions', '0700', 0o700, '0700'],
  ['unix_socket_permissions', '448', 0o700, '0700'],
  ['wal_sender_timeout', '60s', 60_000, '1min'],
  ['wal_sender_timeout', '60000', 60_000, '1min'],
  ['wal_sender_timeout', '1.5 min', 90_000, '90s'],
  ['wal_sender_timeout', '0.5h', 1_800_000, '30min'],
  ['wal_sender_timeout', '1d', 86_400_000, '1d'],
  ['wal_sender_timeout', '1500us', 2, '2ms'],
  ['wal_sender_timeout', '500us', 0, '0'],
  ['wal_sender_timeout', '0', 0, '0'],
  ['wal_sender_timeout', '1234', 1234, '1234ms'],
  ['authentication_timeout', '2min', 120_000, '2min'],
  ['authentication_timeout', '1500ms', 2000, '2s'],
  ['authentication_timeout', '90', 90_000, '90s'],
  ['wal_keep_size', '1GB', 1024 ** 3, '1GB'],
  ['wal_keep_size', '512', 512 * 1024 ** 2, '512MB'],
  ['wal_keep_size', '1.5GB', 1536 * 1024 ** 2, '1536MB'],
  ['wal_keep_size', '0.5TB', 512 * 1024 ** 3, '512GB'],
  ['wal_keep_size', '1048576kB', 1024 ** 3, '1GB'],
  ['hot_standby_feedback', 'OF', false, 'off'],
  ['hot_standby_feedback', 'y', true, 'on'],
  ['log_min_messages', 'WARNING', 'warning', 'warning'],
  ['listen_addresses', 'localhost, ::1', ['localhost', '::1'], 'localhost, ::1'],
  ['listen_addresses', '', [], ''],
  ['unix_socket_directories', '/tmp, /a b', ['/tmp', '/a b'], '/tmp, "/a b"'],
  ['primary_conninfo', 'port=4001', 'port=4001', 'port=4001'],
  ['primary_slot_name', 'slave_2', 'slave_2', 'slave_2'],
  ['restore_command', 'cp "/a %%/%f" "%p"', 'cp "/a %%/%f" "%p"', 'cp "/a %%/%f" "%p"'],
];

const REFUSED: [name: string, text: string, message: string, hint?: string][] = [
  [
    'restore_command',
    'cp /archive/%h %p',
    'invalid value for parameter "restore_command": "cp /archive/%h %p"',
  ],
  ['port', 'abc', 'invalid value for parameter "port": "abc"'],
  ['port', '', 'invalid value for parameter "port": ""'],
  ['port', '1 s', 'invalid value for parameter "port": "1 s"'],
  ['port', '08', 'invalid value for parameter "port": "08"'],
  ['port', 'inf', 'invalid value for parameter "port": "inf"'],
  ['port', '70000', '70000 is outside the valid range for parameter "port" (1 .. 65535)'],
  [
    'port',
    '3000000000',
    'invalid value for parameter "port": "3000000000"',
    'Value exceeds integer range.',
  ],
  [
    'wal_sender_timeout',
    '10 foo',
    'invalid value for parameter "wal_sender_timeout": "10 foo"',
    'Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".',
  ],
  [
    'wal_sender_timeout',
    '10 S',
    'invalid value for parameter "wal_sender_timeout": "10 S"',
    'Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".',
  ],
  [
    'wal_keep_size',
    '1gb',
    'invalid value for parameter "wal_keep_size": "1gb"',
    'Valid units for this parameter are "B", "kB", "MB", "GB", and "TB".',
  ],
  [
    'authentication_timeout',
    '11min',
    '660 s is outside the valid range for parameter "authentication_timeout" (1 s .. 600 s)',
  ],
  ['hot_standby_feedback', 'o', 'parameter "hot_standby_feedback" requires a Boolean value'],
  [
    'log_min_messages',
    'loud',
    'invalid value for parameter "log_min_messages": "loud"',
    'Available values: debug, log, warning, error, fatal, panic.',
  ],
  ['listen_addresses', 'a,,b', 'invalid list syntax in parameter "listen_addresses"'],
  ['listen_addresses', 'a b', 'invalid list syntax in parameter "listen_addresses"'],
  [
    'primary_conninfo',
    'foo=1',
    'invalid value for parameter "primary_conninfo": invalid connection option "foo"',
  ],
  [
    'primary_conninfo',
    'sslmode=require',
    'invalid value for parameter "primary_conninfo": ' +
      'connection option sslmode=require is not supported yet',
    'Leave it out if the network is trusted, or connect through a TLS tunnel.',
  ],
  [
    'primary_slot_name',
    'Slot-1',
    'replication slot name "Slot-1" contains invalid character',
    'Replication slot names may only contain lower case letters, numbers, ' +
      'and the underscore character.',
  ],
];

describe('parameters', () => {
  test('a null character is refused, since it would end the value in a startup packet', () => {
    assert.throws(() => parse('cluster_name', 'a\0b'), { sqlstate: '22023' });
  });

  for (const [name, text, value, shown] of VALUES) {
    test(`${name} = '${text}' is shown as '${shown}'`, () => {
      const parsed = parse(name, text);
      assert.deepEqual(parsed, value);
      assert.equal(showParameter(name, parsed as string), shown);
    });
  }

  for (const [name, text, message, hint] of REFUSED) {
    test(`${name} = '${text}' is refused: ${message}`, () => {
      assert.throws(() => parse(name, text), { name: 'WalcadeError', message, hint });
    });
  }

  test('a name is found in any case, and one that is not there is refused with 42704', () => {
    assert.equal(findParameter('Wal_Sender_TIMEOUT'), 'walSenderTimeoutMs');
    assert.equal(findParameter('__proto__'), undefined);
    assert.throws(() => showConfig(nodeConfig(), 'foo'), {
      sqlstate: '42704',
      message: 'unrecognized configuration parameter "foo"',
    });
  });

  test('every default is a value of its parameter and is written as SHOW prints it', () => {
    const config = nodeConfig();
    for (const key of Object.keys(PARAMETERS) as ParameterKey[]) {
      const { name, default: text } = PARAMETERS[key];
      assert.equal(showConfig(config, name), text, name);
    }
    assert.equal(config.maxWalSenders, 1000);
    assert.equal(config.walKeepSizeBytes, 1024 ** 3);
  });

  test('a refused primary_conninfo is not repeated, since it may hold a password', () => {
    assert.throws(
      () => parse('primary_conninfo', 'password=hush sslmode=require'),
      (error: Error) => !error.message.includes('hush'),
    );
  });

  test('every unambiguous prefix is a Boolean value', () => {
    for (const text of ['t', 'tr', 'TRUE', 'y', 'yes', 'on', '1']) {
      assert.equal(parseBool(text), true, text);
    }
    for (const text of ['f', 'fals', 'False', 'n', 'no', 'of', 'off', '0']) {
      assert.equal(parseBool(text), false, text);
    }
    for (const text of ['', 'o', 'truest', '2', '01', ' on', 'offf']) {
      assert.equal(parseBool(text), undefined, text);
    }
  });

  test('what SHOW prints of an integer reads as the same integer', () => {
    const units = fc.constantFrom('ms', 's', 'kB', 'MB', undefined);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 - 1 }), units, (value, unit) => {
        const result = parseInteger(formatInteger(value, unit), unit);
        assert.deepEqual(result, { kind: 'integer', value });
      }),
    );
  });

  test('any list survives formatting and parsing', () => {
    fc.assert(
      fc.property(fc.array(fc.string()), fc.boolean(), (elements, spaces) => {
        assert.deepEqual(parseList(formatList(elements), { spaces }), elements);
      }),
    );
  });
});
