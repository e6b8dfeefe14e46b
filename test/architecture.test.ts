/**
 * Who may import whom, and who may touch the world: the table of the design, held.
 *
 * Folders import one way only, so that each can be understood, tested and simulated with what
 * stands below it. Clock, disk and network have one door each.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { importsOf, isTest, lineAt, readSources } from './harness/source-text.ts';

/** Each folder of src, and the folders that it may import besides itself. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  base: [],
  wal: ['base'],
  protocol: ['base', 'wal'],
  config: ['base'],
  store: ['base', 'wal'],
  receiver: ['base', 'wal', 'protocol', 'store'],
  sender: ['base', 'wal', 'protocol', 'store'],
  postgres: ['base', 'wal', 'protocol'],
  archive: ['base', 'wal', 'store'],
  backup: ['base', 'wal', 'protocol', 'store'],
  admin: ['base', 'wal', 'protocol', 'store', 'receiver', 'sender'],
  node: [
    'base',
    'wal',
    'protocol',
    'config',
    'store',
    'receiver',
    'sender',
    'postgres',
    'archive',
    'backup',
    'admin',
  ],
  cli: ['base', 'config', 'wal', 'admin', 'node'],
};

const CLOCK = ['Date\\.now\\b', 'new Date\\(\\)', 'set(?:Timeout|Interval)\\b', 'performance\\b'];

/**
 * What opens each door, and the files and folders that may use it. A Unix socket is a file too:
 * who listens on one may remove it. To take an IP address apart is no use of the network.
 */
const DOORS = [
  {
    to: 'the clock',
    code: new RegExp(`\\b(?:${CLOCK.join('|')}|AbortSignal\\.timeout)`),
    modules: ['node:timers', 'node:timers/promises', 'node:perf_hooks'],
    keepers: ['src/base/clock.ts'],
  },
  {
    to: 'the disk',
    code: undefined,
    modules: ['node:fs', 'node:fs/promises', 'fs-native-extensions'],
    keepers: [
      'src/base/disk.ts',
      'src/cli/',
      'src/config/',
      'src/node/',
      'src/postgres/',
      'src/protocol/network.ts',
      'src/admin/control-socket.ts',
    ],
  },
  {
    to: 'the network',
    code: /\bfetch\(/,
    modules: ['node:net', 'node:tls', 'node:http', 'node:https', 'node:http2', 'node:dgram'],
    keepers: ['src/protocol/network.ts', 'src/admin/', 'src/cli/'],
  },
];

const ADDRESS_ONLY = /^import \{ isIP(?:v[46])?(?:, isIP(?:v[46])?)* \} from 'node:net';$/m;

const sources = readSources('src').filter(({ path }) => !isTest(path));

test('every folder imports only the folders that the table allows it', () => {
  const offences = sources.flatMap((source) => {
    const folder = folderOf(source.path);
    const allowed = MAY_IMPORT[folder];
    if (allowed === undefined) return [`${source.path}: the table has no folder ${folder}`];
    return importsOf(source)
      .filter((path) => path.startsWith('src/'))
      .filter((path) => folderOf(path) !== folder && !allowed.includes(folderOf(path)))
      .map((path) => `${source.path} imports ${path}`);
  });
  assert.deepEqual(offences, []);
});

test('the table itself has no cycle', () => {
  const rank = (folder: string, above: readonly string[]): number => {
    assert.ok(!above.includes(folder), `${[...above, folder].join(' → ')} is a cycle`);
    const below = MAY_IMPORT[folder] ?? [];
    return 1 + Math.max(0, ...below.map((each) => rank(each, [...above, folder])));
  };
  for (const folder of Object.keys(MAY_IMPORT)) assert.ok(rank(folder, []) > 0);
});

test('no files import each other in a circle', () => {
  const imports = new Map(sources.map((source) => [source.path, importsOf(source)]));
  const proven = new Set<string>();
  const visit = (path: string, above: readonly string[]): void => {
    assert.ok(!above.includes(path), `${[...above, path].join(' → ')} is a circle`);
    if (proven.has(path)) return;
    for (const next of imports.get(path) ?? []) visit(next, [...above, path]);
    proven.add(path);
  };
  for (const path of imports.keys()) visit(path, []);
});

test('no code of the program imports code of its tests', () => {
  const offences = sources.flatMap((source) =>
    importsOf(source)
      .filter((path) => isTest(path) || /^(?:test|demo|bench|scripts|\.\.)\//.test(path))
      .map((path) => `${source.path} imports ${path}`),
  );
  assert.deepEqual(offences, []);
});

for (const { to, code, modules, keepers } of DOORS) {
  test(`only ${keepers.join(', ')} may use ${to}`, () => {
    const offences = sources
      .filter(({ path }) => !keepers.some((keeper) => path.startsWith(keeper)))
      .flatMap((source) => {
        const used = code === undefined ? undefined : code.exec(source.code);
        const direct = used ? [`${lineAt(source.text, used.index)} uses ${used[0]}`] : [];
        const imported = importsOf(source).filter(
          (name) => modules.includes(name) && !ADDRESS_ONLY.test(source.text),
        );
        return [...direct, ...imported.map((name) => `1 imports ${name}`)].map(
          (offence) => `${source.path}:${offence}`,
        );
      });
    assert.deepEqual(offences, []);
  });
}

/** `wal` of `src/wal/lsn.ts`. */
function folderOf(path: string): string {
  return path.split('/')[1] ?? '';
}
