/** pg_control of real servers, and what must not be taken for one. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { crc32c } from '../wal/crc32c.ts';
import { formatLsn } from '../wal/lsn.ts';
import { parseControlData, readControlData } from './control-data.ts';

const FIXTURES = new URL('../../test/fixtures/control/', import.meta.url);

const fixture = (name: string): Promise<Buffer> => readFile(new URL(name, FIXTURES));

const MB = 1024 * 1024;

/** What the servers said of themselves: see the fixtures' README. */
const STANDBYS = [
  ['13', 7711407712736420590n, 1300, '0/6E6090', '0/6E6058', '0/6E6F28', MB],
  ['14', 7711407727421391817n, 1300, '0/47175A8', '0/4717570', '0/4718458', 64 * MB],
  ['15', 7711407741248640127n, 1300, '0/61A5E8', '0/61A5B0', '0/61B480', MB],
  ['16', 7711407756930565388n, 1300, '0/1504D68', '0/1504D30', '0/1505C00', 16 * MB],
  ['17', 7711407805900285456n, 1700, '0/5FF5F8', '0/5FF5A0', '0/6004B8', MB],
  ['18', 7711407817359709868n, 1800, '0/8738D0', '0/873878', '0/8765C8', MB],
] as const;

for (const [major, identifier, version, checkpoint, redo, minimum, bytes] of STANDBYS) {
  test(`pg_control of a standby of ${major} is read as the server itself reads it`, async () => {
    const data = parseControlData(await fixture(`${major}-standby`));
    assert.deepEqual(
      {
        ...data,
        checkpoint: formatLsn(data.checkpoint),
        redo: formatLsn(data.redo),
        minRecoveryPoint: formatLsn(data.minRecoveryPoint),
      },
      {
        systemIdentifier: identifier,
        controlVersion: version,
        state: 'in archive recovery',
        checkpoint,
        redo,
        timeline: 1,
        minRecoveryPoint: minimum,
        minRecoveryTimeline: 1,
        limits: {
          max_connections: 100,
          max_worker_processes: 8,
          max_wal_senders: 10,
          max_prepared_transactions: 0,
          max_locks_per_transaction: 64,
        },
        segmentBytes: bytes,
        walLogHints: false,
        // initdb of 18 turns them on.
        dataChecksums: major === '18',
      },
    );
  });
}

test('a primary has no minimum recovery point, and no timeline of one', async () => {
  const data = parseControlData(await fixture('15-crashed'));
  assert.deepEqual([data.minRecoveryPoint, data.minRecoveryTimeline], [0n, undefined]);
});

test('how a server ended is told in the words of pg_controldata', async () => {
  const stateOf = async (name: string): Promise<string> =>
    parseControlData(await fixture(name)).state;
  assert.equal(await stateOf('15-crashed'), 'in production');
  assert.equal(await stateOf('15-stopped'), 'shut down in recovery');
});

test('19 has its later fields eight bytes further on, and one more before the segment size', () => {
  const bytes = new Uint8Array(512);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, 1905, true);
  view.setUint32(48, 3, true);
  view.setBigUint64(144, 0x100n, true);
  view.setUint32(152, 2, true);
  view.setUint32(240, MB, true);
  view.setUint32(308, crc32c(bytes.subarray(0, 308)), true);
  const data = parseControlData(bytes);
  assert.deepEqual(
    [data.timeline, data.minRecoveryPoint, data.minRecoveryTimeline, data.segmentBytes, data.state],
    [3, 0x100n, 2, MB, 'starting up'],
  );
});

test('another version, a flipped bit and a short file are refused', async () => {
  const good = await fixture('15-standby');
  const changed = (offset: number): Buffer => {
    const bytes = Buffer.from(good);
    bytes[offset] = (bytes[offset] ?? 0) ^ 1;
    return bytes;
  };
  for (const offset of [8, 9, 10, 11]) {
    assert.throws(() => parseControlData(changed(offset)), { sqlstate: '0A000' });
  }
  for (const offset of [0, 16, 40, 287, 288, 291]) {
    assert.throws(() => parseControlData(changed(offset)), { sqlstate: 'XX001' });
  }
  assert.throws(() => parseControlData(good.subarray(0, 311)), { sqlstate: 'XX001' });
  assert.throws(() => parseControlData(new Uint8Array(0)), { sqlstate: 'XX001' });
});

test('a state, timeline or segment size that cannot be is refused though the sum is right', () => {
  const made = (offset: number, value: number): Uint8Array => {
    const bytes = new Uint8Array(512);
    const view = new DataView(bytes.buffer);
    view.setUint32(8, 1700, true);
    view.setUint32(48, 1, true);
    view.setUint32(228, MB, true);
    view.setUint32(offset, value, true);
    view.setUint32(288, crc32c(bytes.subarray(0, 288)), true);
    return bytes;
  };
  assert.equal(parseControlData(made(16, 6)).state, 'in production');
  assert.throws(() => parseControlData(made(16, 7)), { sqlstate: 'XX001' });
  assert.throws(() => parseControlData(made(48, 0)), { sqlstate: 'XX001' });
  assert.throws(() => parseControlData(made(228, MB + 1)), { sqlstate: 'XX001' });
});

test('a directory without pg_control, or with a strange one, is refused at once', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'control-data-'));
  t.after(() => rm(directory, { recursive: true }));
  await assert.rejects(readControlData(directory), { sqlstate: '58P01' });
  await mkdir(join(directory, 'global'));
  const path = join(directory, 'global', 'pg_control');
  await writeFile(path, await fixture('16-standby'));
  assert.equal((await readControlData(directory)).state, 'in archive recovery');
  await writeFile(path, new Uint8Array(8192).fill(7, 0, 8));
  await assert.rejects(readControlData(directory), { sqlstate: '0A000' });
  await writeFile(path, (await fixture('16-standby')).fill(7, 24, 32));
  await assert.rejects(readControlData(directory), { sqlstate: 'XX001' });
});
