/**
 * Question: how much memory does a node take, with no readers, with idle ones and with ones that
 * catch up as fast as they can, beside PostgreSQL's WAL senders?
 */
import { rm } from 'node:fs/promises';
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import { formatLsn } from '../src/wal/lsn.ts';
import type { Bench, BenchContext, Readings } from './frame.ts';
import { proportionalMegabytes, residentMegabytes } from './process-usage.ts';
import { startReaders } from './readers.ts';
import {
  type WalRange,
  lastOf,
  makePrimary,
  makeRelay,
  makeWal,
  walSenderPids,
} from './servers.ts';

const MEMORY = 'MB';
const EACH = 'KB a reader';
const NONE = 'no reader, just started';
const NONE_RECEIVED = 'no reader, WAL received';
const WAL_SENDERS_MAX = 450;

export const memory: Bench = {
  name: 'memory',
  question:
    'How much memory does a node take with no, idle and busy readers, beside ' +
    "PostgreSQL's WAL senders?",
  aims: [
    { what: NONE, unit: MEMORY, atMost: 70 },
    { what: NONE_RECEIVED, unit: MEMORY, atMost: 70 },
    { what: idle(400), unit: EACH, atMost: 100 },
    { what: busy(100), unit: MEMORY, atMost: 200 },
  ],
  run,
};

async function run({ tree, choose, alternate }: BenchContext): Promise<string> {
  const primary = await makePrimary(tree, { settings: { max_wal_senders: WAL_SENDERS_MAX } });
  const wal = await makeWal(primary, choose({ full: 300, short: 100, smoke: 16 }));
  const nothing = lastOf(wal, 0);
  const relay = await makeRelay(tree, primary, wal);
  await alternate(NONE, { walcade: () => ofNode(relay, 0, nothing) });
  await alternate(NONE_RECEIVED, {
    walcade: async (number) => {
      const receiver = await WalcadeNode.init(tree, {
        name: `receiver${number}`,
        upstream: primary.conninfo,
        args: ['--no-slot', '--start-lsn', formatLsn(wal.start)],
      });
      await receiver.start();
      await receiver.waitForWal(wal.end);
      const { now } = await residentMegabytes(receiver.pid);
      await receiver.end();
      await rm(receiver.directory, { recursive: true });
      return { [MEMORY]: now };
    },
  });
  const counts = choose({ full: [16, 100, 400], short: [16, 100, 400], smoke: [4] });
  for (const count of counts) {
    await alternate(idle(count), {
      walcade: () => ofNode(relay, count, nothing),
      PostgreSQL: () => ofPostgres(primary, count, nothing),
    });
  }
  for (const count of counts) {
    const range = lastOf(wal, choose({ full: 3000, short: 1600, smoke: 16 }) / count);
    await alternate(busy(count), {
      walcade: () => ofNode(relay, count, range),
      PostgreSQL: () => ofPostgres(primary, count, range),
    });
  }
  return (
    'a node is started anew for each figure; its memory is what is resident now, with busy ' +
    'readers its peak while they caught up with some GB in all; that of PostgreSQL is the ' +
    'proportional share (PSS) of its WAL senders only, the rest of the server left out'
  );
}

function idle(count: number): string {
  return `${count} idle readers`;
}

function busy(count: number): string {
  return `${count} busy readers`;
}

/** The memory of a node that serves `range` to `count` readers, and nothing before. */
async function ofNode(relay: WalcadeNode, count: number, range: WalRange): Promise<Readings> {
  await relay.restart();
  await relay.waitForWal(range.end);
  const before = await residentMegabytes(relay.pid);
  if (count === 0) return { [MEMORY]: before.now };
  const readers = await startReaders(relay.port, count, range);
  const after = await residentMegabytes(relay.pid);
  await readers.end();
  const isBusy = range.start < range.end;
  const megabytes = isBusy ? after.peak : after.now;
  return { [MEMORY]: megabytes, [EACH]: ((megabytes - before.now) * 1024) / count };
}

async function ofPostgres(
  primary: PostgresCluster,
  count: number,
  range: WalRange,
): Promise<Readings> {
  const readers = await startReaders(primary.port, count, range);
  const megabytes = await proportionalMegabytes(await walSenderPids(primary, 'bench'));
  await readers.end();
  return { [MEMORY]: megabytes, [EACH]: (megabytes * 1024) / count };
}
