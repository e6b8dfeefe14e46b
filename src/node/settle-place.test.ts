/** What a start makes of a copied node, and that nothing of the original's comes back to it. */
import assert from 'node:assert/strict';
import { chmod, chown, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { TestDisk } from '../../test/harness/test-disk.ts';
import { CONTROL_DATA } from '../../test/harness/test-store.ts';
import { seededRandom } from '../../test/harness/wal-recutter.ts';
import { readWholeFile, systemDisk } from '../base/disk.ts';
import { createLog } from '../base/log.ts';
import { CONF_FILE_NAME } from '../config/conf-file.ts';
import { serverUser } from '../postgres/server-user.ts';
import { CONTROL_FILE } from '../store/control-file-name.ts';
import { ControlFile, readControlData } from '../store/control-file.ts';
import { settlePlace } from './settle-place.ts';

const ORIGINAL = { name: 'slave', primarySlotName: 'slave', directory: '1:1', tablespaces: {} };

test('a copy becomes a node of its own: identity, slots, the slot on the upstream', async (t) => {
  const { directory } = await copiedNode(t);
  const messages = await settle(systemDisk, directory);
  const { nodeId, place } = await readControlData(systemDisk, directory);
  assert.notEqual(nodeId, CONTROL_DATA.nodeId);
  assert.deepEqual([place?.name, place?.primarySlotName], ['slave2', 'slave2']);
  // What no slot is kept in is left alone.
  assert.deepEqual(await readdir(join(directory, 'pg_replslot')), ['notes']);
  assert.match(await readFile(join(directory, CONF_FILE_NAME), 'utf8'), OWN_SLOT);
  assert.deepEqual(messages, [
    'this node is a copy of node "slave"',
    `Its identity is ${nodeId} now. Replication slots that were removed: one, two. ` +
      'Its slot on the upstream is "slave2" now, in walcade.conf too.',
  ]);
  assert.deepEqual(await settle(systemDisk, directory), []);
});

// The names of the slots were removed and not synced before the copy was noted as settled: after a
// power cut it held WAL for downstreams that were the original's.
test("a copy that is settled has no slot of the original's, whenever power is cut", async (t) => {
  const { directory } = await copiedNode(t);
  const random = seededRandom(1);
  for (let at = 1, isDone = false; !isDone; at++) {
    const disk = await TestDisk.load(directory);
    disk.cutPowerAt = at;
    isDone = await endsBeforeCut(disk, settle(disk, directory));
    disk.cutPower();
    for (const keep of [() => true, () => false, () => random() < 0.5]) {
      const after = disk.afterPowerCut(keep);
      if (!(await isSettled(after, directory))) await settle(after, directory);
      assert.ok(await isSettled(after, directory), `after a power cut in operation ${at}`);
      assert.deepEqual(await after.list(join(directory, 'pg_replslot')), ['notes']);
      const config = await readWholeFile(after, join(directory, CONF_FILE_NAME));
      assert.match(config.toString(), OWN_SLOT);
    }
  }
});

test("that the server's slots are gone is durable before the copy is settled", async (t) => {
  const { directory, slots } = await copiedNode(t, { withPostgres: true });
  const disk = await TestDisk.load(directory);
  const done: string[] = [];
  disk.onOperation = async ({ kind, path }) => {
    if (path === slots) done.push(`${kind}, ${(await readdir(slots)).length} left`);
    if (path === join(directory, CONTROL_FILE) && kind === 'write') done.push('settled');
  };
  await settle(disk, directory);
  assert.deepEqual(done, ['sync-directory, 0 left', 'settled']);
});

const OWN_SLOT = /^primary_slot_name = '?slave2'?$/m;

/** A directory that was copied from a node with two slots, not started yet. */
async function copiedNode(
  t: TestContext,
  { withPostgres = false } = {},
): Promise<{ directory: string; slots: string }> {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-copy-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  await chmod(directory, 0o755);
  const config = ["cluster_name = 'slave2'", "primary_slot_name = 'slave'"];
  if (withPostgres) config.push("data_directory = 'data'");
  await writeFile(join(directory, CONF_FILE_NAME), `${config.join('\n')}\n`);
  await mkdir(join(directory, 'pg_replslot'));
  for (const file of ['one.json', 'two.json', 'notes']) {
    await writeFile(join(directory, 'pg_replslot', file), '{}');
  }
  await ControlFile.create(systemDisk, directory, { ...CONTROL_DATA, place: ORIGINAL });
  const slots = join(directory, 'data', 'pg_replslot');
  if (withPostgres) await makeServerSlot(directory);
  return { directory, slots };
}

async function makeServerSlot(directory: string): Promise<void> {
  const user = await serverUser();
  for (const inside of ['data', 'data/pg_replslot', 'data/pg_replslot/one']) {
    await mkdir(join(directory, inside), { mode: 0o700 });
    if (user !== undefined) await chown(join(directory, inside), user.uid, user.gid);
  }
}

/** Gives what is logged: messages and details. */
async function settle(disk: TestDisk | typeof systemDisk, directory: string): Promise<string[]> {
  const logged: string[] = [];
  const log = createLog(({ message, detail = '' }) => logged.push(message, detail), {
    minimum: () => 'log',
  });
  const control = await ControlFile.open(disk, directory);
  await settlePlace({ disk, log, directory, control });
  return logged;
}

async function endsBeforeCut(disk: TestDisk, ended: Promise<unknown>): Promise<boolean> {
  try {
    await ended;
  } catch (error) {
    if (!disk.isCut) throw error;
  }
  return !disk.isCut;
}

async function isSettled(disk: TestDisk, directory: string): Promise<boolean> {
  return (await readControlData(disk, directory)).nodeId !== CONTROL_DATA.nodeId;
}
