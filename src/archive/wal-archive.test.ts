/** A store that reads an archive in memory: what is taken, what is refused, and in what words. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withArchive } from '../../test/harness/memory-archive.ts';
import { systemError } from '../../test/harness/test-disk.ts';
import { StoreUnderTest, WAL, readAll } from '../../test/harness/test-store.ts';
import { MB, START, made } from '../../test/harness/wal-walks.ts';
import { WalcadeError } from '../base/errors.ts';
import { advance, distance, formatLsn } from '../wal/lsn.ts';

const NAMES = [1, 2, 3, 4].map((number) => `00000001000000000000000${number}`);
const [FIRST = '', SECOND = '', THIRD = '', FOURTH = ''] = NAMES;

/** Three segments and a bit; records lie over both segment boundaries. */
const LONG = made(Array.from({ length: 33 }, () => ({ bodyBytes: 100_000 })));
/** Within the first segment. */
const SHORT = made([{ bodyBytes: 40 }, { bodyBytes: 9_000 }, { bodyBytes: 300_000 }]);
const SHORT_END = advance(START, SHORT.wal.length);

test('a store is fed by the archive alone, segment by segment, until one is missing', async (t) => {
  const { archive, restore, node, log } = await withArchive(t);
  archive.putWal(1, LONG.wal.subarray(0, 3 * MB));
  const { broughtWal, end } = await restore();
  assert.equal(broughtWal, true);
  assert.deepEqual(end, { reason: `the archive has no ${FOURTH}`, detail: `no file ${FOURTH}` });
  assert.deepEqual(archive.asked, ['00000002.history', ...NAMES]);
  assert.equal(node.store.flushed, advance(START, 3 * MB));
  const served = distance(START, node.store.served.value);
  assert.ok(served > 2 * MB);
  assert.ok((await readAll(node.store)).equals(LONG.wal.subarray(0, served)));
  const told = [FIRST, SECOND, THIRD].map((name) => `restored log file "${name}" from archive`);
  assert.deepEqual(
    log.map(({ message }) => message),
    told,
  );

  // While the next one is missing nothing else is copied again.
  archive.asked.length = 0;
  assert.equal((await restore()).broughtWal, false);
  assert.deepEqual(archive.asked, ['00000002.history', FOURTH]);

  // Its head is the rest of a record that begins in the third one.
  archive.putWal(1, LONG.wal);
  assert.equal((await restore()).broughtWal, true);
  assert.ok((await readAll(node.store)).equals(LONG.wal));
});

test('what the archive may remove is what no start of this node needs again', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  archive.putWal(1, LONG.wal.subarray(0, 3 * MB));
  await restore();
  await node.store.checkpoint();
  const needed: string[] = [];
  archive.onAsked = ({ oldestNeeded }) => needed.push(oldestNeeded);
  await restore();
  assert.deepEqual(needed, ['0'.repeat(24), THIRD]);
});

test('a file that is not written to its end is taken as far as it is', async (t) => {
  const { archive, restore, node, log } = await withArchive(t);
  const ends = SHORT.records.map(({ end }) => end);
  for (const end of ends) {
    archive.putWal(1, SHORT.wal.subarray(0, distance(START, end)));
    const outcome = await restore();
    assert.equal(outcome.broughtWal, true);
    assert.equal(outcome.end.reason, `WAL of ${FIRST} in the archive ends at ${formatLsn(end)}`);
    assert.equal(node.store.received, end);
  }
  assert.equal((await restore()).broughtWal, false);
  assert.ok((await readAll(node.store)).equals(SHORT.wal));
  assert.ok(log.every(({ level }) => level === 'log'));
});

test('corrupt WAL is taken up to the record before it, which is told once', async (t) => {
  const { archive, restore, node, log } = await withArchive(t);
  const corrupt = Buffer.from(LONG.wal);
  corrupt.writeUInt8(corrupt.readUInt8(MB + 500_000) ^ 1, MB + 500_000);
  archive.putWal(1, corrupt);
  await restore();
  await restore();
  const record = LONG.records.find(({ end }) => end > advance(START, MB + 500_000));
  assert.equal(node.store.received, record?.start);
  const warnings = log.filter(({ level }) => level !== 'log');
  assert.deepEqual(
    warnings.map(({ level, message, detail }) => [level, message, detail]),
    [
      [
        'warning',
        `WAL of ${SECOND} in the archive ends at ${formatLsn(node.store.received)}`,
        'Reading it gave: incorrect resource manager data checksum in record at ' +
          `${formatLsn(node.store.received)}.`,
      ],
    ],
  );

  // A good copy goes on where it was.
  archive.putWal(1, LONG.wal);
  await restore();
  assert.ok((await readAll(node.store)).equals(LONG.wal));
});

test('a file that differs from what was served is refused, and nothing overwritten', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  await node.appendDurably(SHORT.wal);
  const other = Buffer.from(LONG.wal);
  SHORT.wal.copy(other);
  other.writeUInt8(other.readUInt8(5_000) ^ 1, 5_000);
  archive.putWal(1, other);
  await assert.rejects(restore(), {
    sqlstate: '55000',
    message:
      `WAL file "${FIRST}" of the archive differs from this node's WAL at ` +
      formatLsn(advance(START, 5_000)),
    detail: 'The two have the same timeline and not the same history. Nothing was overwritten.',
  });
  assert.equal(node.store.received, SHORT_END);
  assert.equal(node.store.needsRewind, false);
  assert.ok((await readAll(node.store)).equals(SHORT.wal));
});

test('WAL of another cluster is not taken', async (t) => {
  const { archive, restore, node, log } = await withArchive(t);
  archive.putWal(1, made([{ bodyBytes: 40 }], { systemIdentifier: 1n }).wal);
  await restore();
  assert.equal(node.store.received, START);
  assert.match(log.at(-1)?.detail ?? '', /WAL file is from different database system/);
});

test('an unfinished record is finished by the archive', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  await node.appendDurably(LONG.wal, advance(START, MB + 250_000));
  assert.ok(node.store.proven < node.store.received);
  archive.putWal(1, LONG.wal);
  await restore();
  assert.ok((await readAll(node.store)).equals(LONG.wal));
});

test('an unfinished record that the archive contradicts is dropped', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  const unfinished = made([{ bodyBytes: 40 }, { bodyBytes: 2_000_000 }]).wal;
  await node.appendDurably(unfinished, advance(START, MB + 5_000));
  const other = made([{ bodyBytes: 40 }, { bodyBytes: 1_500_000 }, { bodyBytes: 300_000 }]).wal;
  archive.putWal(1, other);
  await restore();
  assert.ok((await readAll(node.store)).equals(other));
  await node.stop();
  const next = await StoreUnderTest.open(node.disk);
  assert.ok((await readAll(next.store)).equals(other));
  await next.stop();
});

test('WAL that does not follow what is stored is refused, and nothing of it kept', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  const common = made([{ bodyBytes: 40 }, { switchSegment: true }]);
  await node.appendDurably(common.wal);
  // Another history, that has come to a segment's end as well.
  const other = made([{ bodyBytes: 80 }, { switchSegment: true }, { bodyBytes: 200_000 }]);
  archive.putWal(1, other.wal, advance(START, MB));
  await assert.rejects(restore(), {
    sqlstate: 'XX001',
    message:
      "WAL of the archive does not follow this node's: record with incorrect prev-link " +
      '0/100090 at 0/200028',
    detail: 'Nothing was overwritten.',
  });
  assert.equal(node.store.needsRewind, false);
  assert.equal(node.store.received, advance(START, MB));
});

test('a page of a timeline that is in no history is refused', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  archive.putWal(1, made([{ bodyBytes: 40 }, { bodyBytes: 50_000, timeline: 7 }]).wal);
  await assert.rejects(restore(), {
    sqlstate: 'XX001',
    message: `unexpected timeline ID 7 in WAL file "${FIRST}" of the archive`,
  });
  assert.equal(node.store.received, START);
});

test('what the archive refuses ends the round, and what came before it stays', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  archive.putWal(1, LONG.wal);
  archive.onAsked = ({ name }) => {
    if (name === THIRD) throw new WalcadeError('38000', 'made by the test');
  };
  await assert.rejects(restore(), { message: 'made by the test' });
  await node.store.drained(node.ended);
  assert.equal(node.store.received, advance(START, 2 * MB));
});

test('a full disk ends the round, and the next one goes on when it takes writes', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  archive.putWal(1, LONG.wal);
  node.disk.onOperation = ({ kind, path }) => {
    if (kind === 'write' && path.startsWith(WAL)) throw systemError('ENOSPC');
  };
  await assert.rejects(restore(), { sqlstate: '53100' });
  node.disk.onOperation = () => {};
  await node.rewind();
  await restore();
  assert.ok((await readAll(node.store)).equals(LONG.wal));
});

test('a round ends when it is aborted', async (t) => {
  const { archive, restore } = await withArchive(t);
  archive.putWal(1, LONG.wal);
  const stop = new AbortController();
  const reason = new Error('the test has seen enough');
  archive.onAsked = ({ name }) => {
    if (name === SECOND) stop.abort(reason);
  };
  await assert.rejects(restore(stop.signal), reason);
});
