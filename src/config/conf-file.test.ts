/**
 * walcade.conf reads like postgresql.conf: tables of cases with guc-file.l as oracle.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { type ReadText, loadConfig, setParameter } from './conf-file.ts';
import { scanSettings } from './conf-syntax.ts';

/** Files of the node's directory /node, by path. */
function filesOf(files: Record<string, string>): { readText: ReadText } {
  const readText: ReadText = async (path) => {
    const text = files[path];
    if (text === undefined) throw Object.assign(new Error(`no ${path}`), { code: 'ENOENT' });
    return text;
  };
  return { readText };
}

const load = (text: string, others: Record<string, string> = {}) =>
  loadConfig('/node', filesOf({ '/node/walcade.conf': text, ...others }));

async function errorsOf(text: string, others: Record<string, string> = {}): Promise<string[]> {
  try {
    await load(text, others);
  } catch (error) {
    const { sqlstate, message, detail = '' } = error as Record<string, string>;
    assert.equal(sqlstate, 'F0000');
    assert.equal(message, 'configuration file "walcade.conf" contains errors');
    return detail.split('\n');
  }
  return [];
}

const VALUES: [text: string, value: string][] = [
  ['a = 1', '1'],
  ['a 1', '1'],
  ['a=b', 'b'],
  ['  a\t=\t60s  # comment', '60s'],
  ['a = -1.5', '-1.5'],
  ['a = 0x1F', '0x1F'],
  ["a = 'it''s'", "it's"],
  [String.raw`a = 'it\'s\t\101\\'`, "it's\tA\\"],
  ["a = '# no comment'", '# no comment'],
  ['a = b-c.d:e/f', 'b-c.d:e/f'],
  ["a = ''", ''],
  ['a = on\r', 'on'],
];

const SYNTAX_ERRORS: [text: string, error: string][] = [
  ['port = 1 2', 'line 1, near token "2"'],
  ['\nport =', 'line 2, near end of line'],
  ['port\n', 'line 1, near end of line'],
  ['port = = 1', 'line 1, near token "="'],
  ['12 = 1', 'line 1, near token "12"'],
  ["port = 'open", `line 1, near token "'"`],
  ['port = 1.5GB', 'line 1, near token "GB"'],
  ['port = /tmp', 'line 1, near token "/"'],
  ['a-b = 1', 'line 1, near token "a-b"'],
  ['port = 1,', 'line 1, near token ","'],
];

describe('walcade.conf', () => {
  for (const [text, value] of VALUES) {
    test(`${JSON.stringify(text)} sets ${JSON.stringify(value)}`, () => {
      const { settings, errors } = scanSettings(text);
      assert.deepEqual(errors, []);
      assert.deepEqual(
        settings.map((setting) => setting.value),
        [value],
      );
    });
  }

  for (const [text, error] of SYNTAX_ERRORS) {
    test(`${JSON.stringify(text)} is a syntax error in ${error}`, async () => {
      assert.deepEqual(await errorsOf(text), [`syntax error in file "walcade.conf" ${error}`]);
    });
  }

  test('an empty file gives the defaults', async () => {
    const config = await load('# nothing\n\n');
    assert.equal(config.port, 5432);
    assert.equal(config.walSenderTimeoutMs, 60_000);
  });

  test('the last setting of a parameter wins, and only that one is checked', async () => {
    const config = await load('port = abc\nPort = 4001\nwal_sender_timeout 5s');
    assert.equal(config.port, 4001);
    assert.equal(config.walSenderTimeoutMs, 5000);
  });

  test('all errors are told at once, each with its file and line', async () => {
    const text = [
      'foo = 1',
      'port = 70000',
      'listen_addresses = *',
      "wal_sender_timeout = '10 foo'",
      'log_connections = maybe',
      'a.b = 1',
    ].join('\n');
    assert.deepEqual(await errorsOf(text), [
      'syntax error in file "walcade.conf" line 3, near token "*"',
      'unrecognized configuration parameter "foo" in file "walcade.conf" line 1',
      '70000 is outside the valid range for parameter "port" (1 .. 65535) ' +
        'in file "walcade.conf" line 2',
      'invalid value for parameter "wal_sender_timeout": "10 foo" in file "walcade.conf" line 4: ' +
        'Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".',
      'parameter "log_connections" requires a Boolean value in file "walcade.conf" line 5',
      'unrecognized configuration parameter "a.b" in file "walcade.conf" line 6',
    ]);
  });

  test('an included file is found beside its includer and wins if it comes later', async () => {
    const others = {
      '/node/conf.d/more.conf': "port = 2\ninclude 'deeper.conf'",
      '/node/conf.d/deeper.conf': 'max_wal_senders = 3',
    };
    const config = await load("port = 1\ninclude 'conf.d/more.conf'", others);
    assert.equal(config.port, 2);
    assert.equal(config.maxWalSenders, 3);
    const first = await load("include = 'conf.d/more.conf'\nport = 1", others);
    assert.equal(first.port, 1);
  });

  test('an error in an included file names that file', async () => {
    const others = { '/node/conf.d/more.conf': '\nfoo = 2', '/etc/walcade.conf': 'foo 3' };
    assert.deepEqual(await errorsOf("include 'conf.d/more.conf'", others), [
      'unrecognized configuration parameter "foo" in file "conf.d/more.conf" line 2',
    ]);
    assert.deepEqual(await errorsOf("include '/etc/walcade.conf'", others), [
      'unrecognized configuration parameter "foo" in file "/etc/walcade.conf" line 1',
    ]);
  });

  test('a missing file is an error unless include_if_exists asks for it', async () => {
    assert.deepEqual(await errorsOf("include_if_exists 'gone.conf'"), []);
    assert.deepEqual(await errorsOf("include 'gone.conf'"), [
      'could not open configuration file "gone.conf": No such file or directory',
    ]);
    assert.deepEqual(await errorsOf("include ''"), [
      'empty configuration file name in file "walcade.conf" line 1',
    ]);
  });

  test('files that include each other end at the nesting limit', async () => {
    assert.deepEqual(await errorsOf("include 'walcade.conf'"), [
      'could not open configuration file "walcade.conf": maximum nesting depth exceeded',
    ]);
  });
});

describe('setting a parameter in the text', () => {
  const CASES: [claim: string, before: string, after: string][] = [
    ['replaces the value and keeps the comment', 'port 1 # mine\n', 'port = 4001 # mine\n'],
    ['replaces the last of several', 'port = 1\nPORT = 2\n', 'port = 1\nport = 4001\n'],
    [
      'puts the commented-out default to use',
      '#port = 5432   # the port\n',
      'port = 4001   # the port\n',
    ],
    ['leaves prose in comments alone', '# port is nice\n', '# port is nice\nport = 4001\n'],
    ['adds a line at the end', 'log_connections = on', 'log_connections = on\nport = 4001\n'],
    ['adds to an empty file', '', 'port = 4001\n'],
  ];
  for (const [claim, before, after] of CASES) {
    test(claim, () => assert.equal(setParameter(before, 'port', '4001'), after));
  }

  test('refuses what could not be read again', () => {
    assert.throws(() => setParameter('', 'port', '0'), { sqlstate: '22023' });
    assert.throws(() => setParameter('', 'foo', '0'), { sqlstate: '42704' });
  });

  test('any value reads back as it was set', () => {
    const text = fc.string({ unit: 'binary' }).filter((value) => !value.includes('\0'));
    fc.assert(
      fc.property(text, (value) => {
        const written = setParameter('', 'cluster_name', value);
        assert.equal(scanSettings(written).settings[0]?.value, value);
        assert.equal(written.indexOf('\n'), written.length - 1);
      }),
    );
  });
});
