/** Making a node, and what is told and left, here and upstream, where it comes to nothing. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type Disk, systemDisk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { createLog } from '../base/log.ts';
import { parseLsn, timelineId } from '../wal/lsn.ts';
import { MemoryPrimary } from '../../test/harness/memory-primary.ts';
import { waitFor } from '../../test/harness/wait.ts';
import { initNode } from './init-node.ts';
import { type Built, type Making, makeNode } from './make-node.ts';
import type { UpstreamFacts } from './upstream-facts.ts';

const LOST = {
  sqlstate: '08006',
  message: /^connection to server at "primary", port 5432 failed: server closed the connection/,
};

test('whatever the upstream does not answer, a call to stop ends it at once', async (t) => {
  // Ctrl-C did nothing once the upstream had let us in.
  const commands = [
    'IDENTIFY_SYSTEM',
    'SHOW wal_level',
    'SHOW walcade.node_id',
    'READ_REPLICATION_SLOT',
    'CREATE_REPLICATION_SLOT',
    'TIMELINE_HISTORY',
  ];
  for (const start of commands) {
    const { primary, parent, warnings, init, stop } = await prepare(t);
    primary.fateOf = (command) => (command.startsWith(start) ? 'unanswered' : 'answered');
    const initialized = init();
    const outcome = assert.rejects(initialized, { message: 'canceled by a test' }, start);
    await waitFor(start, () => primary.asked(start).length > 0);
    stop();
    await outcome;
    assert.deepEqual([...primary.slots], [], start);
    assert.deepEqual(await readdir(parent), [], start);
    assert.deepEqual(warnings, [], start);
  }
});

test('an upstream that falls silent is given five seconds to drop the slot', async (t) => {
  const { primary, parent, warnings, init, stop } = await prepare(t);
  let isSilent = false;
  primary.fateOf = (command) => {
    isSilent ||= command.startsWith('TIMELINE_HISTORY');
    return isSilent ? 'unanswered' : 'answered';
  };
  const outcome = assert.rejects(init(), { message: 'canceled by a test' });
  await waitFor('silence', () => isSilent);
  stop();
  await waitFor('the drop', () => primary.asked('DROP_REPLICATION_SLOT').length > 0);
  await primary.clock.pass(5000);
  await outcome;
  assert.deepEqual(await readdir(parent), []);
  assert.deepEqual(warnings, [
    'could not drop replication slot "node": no answer from the upstream within 5 s',
  ]);
});

test('a lost connection is told with its server', async (t) => {
  for (const start of ['IDENTIFY_SYSTEM', 'SHOW wal_level', 'TIMELINE_HISTORY']) {
    const { primary, parent, warnings, init } = await prepare(t);
    primary.fateOf = (command) => (command.startsWith(start) ? 'lost-before' : 'answered');
    await assert.rejects(init(), LOST, start);
    assert.deepEqual([...primary.slots], [], start);
    assert.deepEqual(await readdir(parent), [], start);
    assert.deepEqual(warnings, [], start);
  }
});

test('a slot that was made without an answer is dropped, and not one that was there', async (t) => {
  const made = await prepare(t);
  made.primary.fateOf = (command) =>
    command.startsWith('CREATE_REPLICATION_SLOT') ? 'lost-after' : 'answered';
  await assert.rejects(made.init(), LOST);
  assert.equal(made.primary.asked('DROP_REPLICATION_SLOT').length, 1);
  assert.deepEqual([...made.primary.slots], []);

  for (const fate of ['lost-before', 'lost-after'] as const) {
    const there = await prepare(t);
    there.primary.slots.add('node');
    there.primary.fateOf = (command) =>
      command.startsWith('CREATE_REPLICATION_SLOT') ? fate : 'answered';
    await assert.rejects(there.init(), LOST);
    assert.deepEqual([...there.primary.slots], ['node']);
    assert.deepEqual([...made.warnings, ...there.warnings], []);
  }
});

test('where nobody can tell whose a slot is, it stays and is told of', async (t) => {
  const { primary, warnings, init } = await prepare(t);
  primary.settings['server_version_num'] = '140010';
  primary.fateOf = (command) =>
    command.startsWith('CREATE_REPLICATION_SLOT') ? 'lost-after' : 'answered';
  await assert.rejects(init(), LOST);
  assert.deepEqual([...primary.slots], ['node']);
  assert.deepEqual(warnings, ['replication slot "node" may have been made on the upstream']);
});

test('a slot that somebody else has is refused, and stays', async (t) => {
  for (const version of ['140010', '180004']) {
    const { primary, warnings, init } = await prepare(t);
    primary.settings['server_version_num'] = version;
    primary.slots.add('node');
    await assert.rejects(init(), {
      sqlstate: '42710',
      message: 'replication slot "node" already exists on the upstream',
    });
    assert.deepEqual([...primary.slots], ['node']);
    assert.deepEqual(warnings, []);
  }
});

test('a full disk is told in the words of PostgreSQL, with nothing left', async (t) => {
  for (const name of [
    'pg_wal',
    'pg_replslot',
    'walcade.conf',
    'walcade_hba.conf',
    'walcade.control',
  ]) {
    const full = Object.assign(new Error('ENOSPC: raw'), { code: 'ENOSPC' });
    const disk: Disk = {
      ...systemDisk,
      open: async (path, mode) => {
        if (path.includes(`/${name}`)) throw full;
        return systemDisk.open(path, mode);
      },
      makeDirectory: async (path) => {
        if (path.endsWith(`/${name}`)) throw full;
        await systemDisk.makeDirectory(path);
      },
    };
    const { primary, parent, warnings, init } = await prepare(t, disk);
    const action = name.startsWith('pg_') ? 'create directory' : 'write file';
    await assert.rejects(init(), {
      sqlstate: '53100',
      message: `could not ${action} "${join(parent, 'node', name)}": No space left on device`,
    });
    assert.deepEqual([...primary.slots], []);
    assert.deepEqual(await readdir(parent), []);
    assert.deepEqual(warnings, []);
  }
});

test('a node is built with what was checked before there was anything of it', async (t) => {
  const { primary, parent, doors, choice } = await prepare(t);
  const seen: unknown[] = [];
  const check = async ({ major }: UpstreamFacts) => ({ major, slots: [...primary.slots] });
  const build = async (_: Making, checked: unknown): Promise<Built> => {
    seen.push(checked, [...primary.slots]);
    return { store: { start: parseLsn('0/300000'), timeline: timelineId(1) } };
  };
  const { signal } = new AbortController();
  const making = { check, build, mayHold: [], leaves: [] };
  const { upstream } = await makeNode(doors, choice, making, signal);
  assert.deepEqual(seen, [{ major: upstream.major, slots: [] }, ['node']]);
  assert.ok((await readdir(join(parent, 'node'))).includes('walcade.control'));
});

test('what cannot be taken back is told, and the rest is taken back all the same', async (t) => {
  const { primary, parent, warnings, doors, choice } = await prepare(t);
  const build = async ({ directory, onFailure }: Making): Promise<never> => {
    await mkdir(join(directory, 'data'));
    onFailure(async () => {
      throw new WalcadeError(SQLSTATE.IO_ERROR, 'could not restore file "postgresql.conf"');
    });
    throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, 'of the work itself');
  };
  const making = { check: async () => {}, build, mayHold: [], leaves: [] };
  const { signal } = new AbortController();
  await assert.rejects(makeNode(doors, choice, making, signal), /of the work itself$/);
  assert.deepEqual(warnings, ['could not restore file "postgresql.conf"']);
  assert.deepEqual([...primary.slots], []);
  assert.deepEqual(await readdir(parent), []);
});

/** A primary on timeline 2, and how a relay "node" below it is made in `parent`. */
async function prepare(t: TestContext, disk: Disk = systemDisk) {
  const parent = await mkdtemp(join(tmpdir(), 'make-node-'));
  t.after(() => rm(parent, { recursive: true }));
  const primary = new MemoryPrimary({
    timeline: 2,
    walEnd: parseLsn('0/300000'),
    histories: { 2: '1\t0/200000\tno recovery target specified\n' },
  });
  const warnings: string[] = [];
  const log = createLog(({ message }) => void warnings.push(message), {
    minimum: () => 'warning',
  });
  const doors = { disk, network: primary.network, clock: primary.clock, log };
  const choice = {
    directory: join(parent, 'node'),
    upstream: 'host=primary port=5432 user=postgres',
    name: undefined,
    port: undefined,
    listenAddresses: undefined,
    slot: undefined,
  };
  const stopping = new AbortController();
  const init = () => initNode(doors, { ...choice, startLsn: undefined }, stopping.signal);
  const stop = (): void => stopping.abort(new Error('canceled by a test'));
  return { primary, parent, warnings, doors, choice, init, stop };
}
