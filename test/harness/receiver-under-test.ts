/**
 * A WAL receiver that runs between a primary in memory, an archive in memory if the test has one,
 * and a store on a disk of the test. It lives as long as the test; its time is the primary's clock.
 */
import type { TestContext } from 'node:test';
import { WalArchive } from '../../src/archive/wal-archive.ts';
import { Condition } from '../../src/base/condition.ts';
import { type LogEntry, createLog } from '../../src/base/log.ts';
import { WalReceiver } from '../../src/receiver/wal-receiver.ts';
import { HistoryFiles } from '../../src/store/history-files.ts';
import { INVALID_LSN, timelineId } from '../../src/wal/lsn.ts';
import { settle } from './manual-clock.ts';
import { MemoryArchive } from './memory-archive.ts';
import { MemoryPrimary, type MemoryPrimaryScript } from './memory-primary.ts';
import { StoreUnderTest, WAL, newNodeDisk } from './test-store.ts';
import { CLUSTER, START } from './wal-walks.ts';

export interface Arrangement {
  /** The store's; as the upstream's if it is not given. */
  timeline?: number;
  /** History files that are here already. */
  kept?: Record<number, string>;
  /** Where WAL can be restored from; there is none if it is not given. */
  archive?: MemoryArchive;
  /** What the upstream answers to SHOW, besides what it always does. */
  upstreamSettings?: Record<string, string>;
  /** Whether primary_conninfo is set; it is if nothing is said. */
  hasUpstream?: boolean;
  /** Holds up each round; none is held up if it is not given. */
  mayBegin?: () => Promise<void>;
}

/** A receiver that runs until the test ends, as far as it comes without time. */
export async function receive(
  t: TestContext,
  script: Partial<MemoryPrimaryScript>,
  { timeline = script.timeline ?? 1, kept = {}, ...sources }: Arrangement = {},
) {
  const primary = new MemoryPrimary({ timeline: 1, walEnd: START, histories: {}, ...script });
  Object.assign(primary.settings, sources.upstreamSettings);
  const disk = await newNodeDisk({ timeline: timelineId(timeline) });
  const node = await StoreUnderTest.open(disk, { sleep: 'for ever' });
  const histories = new HistoryFiles(disk, WAL);
  for (const [number, content] of Object.entries(kept)) {
    await histories.keep(timelineId(Number(number)), Buffer.from(content));
  }
  const entries: LogEntry[] = [];
  const log = createLog((entry) => entries.push(entry), { minimum: () => 'log' });
  const archive = new WalArchive({
    archive: sources.archive ?? new MemoryArchive(),
    store: node.store,
    histories,
    systemIdentifier: CLUSTER,
    log,
  });
  const receiver = new WalReceiver({
    hasUpstream: () => sources.hasUpstream ?? true,
    connect: (signal) => primary.connect(signal),
    hasArchive: () => sources.archive !== undefined,
    mayBegin: sources.mayBegin ?? (async () => {}),
    openArchive: () => (sources.archive === undefined ? undefined : archive),
    store: node.store,
    control: node.control,
    histories,
    settings: () => ({
      timeoutMs: 60_000,
      statusIntervalMs: 10_000,
      retryIntervalMs: 5_000,
      slotName: undefined,
      maxRateBytes: 0,
    }),
    apply: () => INVALID_LSN,
    applyChanged: new Condition(),
    feedback: () => ({ xmin: 0n, catalogXmin: 0n }),
    feedbackChanged: new Condition(),
    clock: primary.clock,
    log,
  });
  const stop = new AbortController();
  const ended = receiver.run(stop.signal);
  ended.catch(() => {});
  t.after(async () => {
    stop.abort(new Error('the test has ended'));
    await ended.catch(() => {});
    await node.stop();
  });
  for (let turn = 0; turn < 5; turn += 1) await settle();
  return { primary, node, disk, histories, log: entries, receiver, ended };
}

/** Lets time pass until the primary has been connected to so often. */
export async function waitForConnections(primary: MemoryPrimary, number: number): Promise<void> {
  for (let turn = 0; turn < 1000 && primary.connections < number; turn += 1) {
    await primary.clock.pass(100);
  }
  await settle();
  await settle();
}
