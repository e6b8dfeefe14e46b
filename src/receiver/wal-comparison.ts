/**
 * Stored WAL compared with an upstream's, over a connection that nothing is received by. Two
 * promotions at one point can give the same timeline number and the same history file; what was
 * written after them is not the same.
 *
 * Each comparison is one stream, which ends with it; the connection can be asked further.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { BACKEND, COPY_DONE } from '../protocol/backend-messages.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { errorFromResponse } from '../protocol/error-response.ts';
import type { Message } from '../protocol/message-reader.ts';
import { formatStartReplication } from '../protocol/replication-command.ts';
import {
  REPLICATION_MESSAGE,
  WAL_DATA_HEADER_BYTES,
  decodeWalDataHeader,
} from '../protocol/replication-messages.ts';
import type { WalStore } from '../store/wal-store.ts';
import { ancestorHistory, beginOf } from '../wal/history.ts';
import {
  type Lsn,
  type TimelineId,
  advance,
  alignDown,
  distance,
  formatLsn,
  lsn,
  maxLsn,
  minLsn,
} from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import { overlapStart } from './stored-overlap.ts';

/** Where stored WAL can be read. */
export type ComparableWal = Pick<WalStore, 'history' | 'read'>;

/** WAL of one timeline of the store's history, up to a position that was served. */
export interface WalRange {
  timeline: TimelineId;
  start: Lsn;
  end: Lsn;
}

/**
 * The first position where the upstream's WAL of `timeline` is not that of the store, looked for
 * before `end`; undefined if it is the same. `walEnd` is how far the upstream has it. Compared are
 * the page where the timeline begins, with a record that has the time of its promotion in it, and
 * the page where the two would join. If only the latter differs, the position is searched between
 * the two, page by halves.  Throws 58P01 when the upstream does not have the WAL at `end` any
 * more.
 */
export async function findDifference(
  client: ReplicationClient,
  store: WalStore,
  { timeline, end, walEnd }: { timeline: TimelineId; end: Lsn; walEnd: Lsn },
): Promise<Lsn | undefined> {
  const { oldest, segmentBytes } = store;
  const start = overlapStart({ served: end, received: end, segmentBytes });
  const tail = { timeline, start, end };
  const atEnd = start < walEnd ? await firstDifference(client, store, tail) : undefined;
  const begin = maxLsn(beginOf(ancestorHistory(store.history, timeline)), oldest);
  const head = { timeline, start: begin, end: minLsn(advance(begin, PAGE_BYTES), end) };
  if (head.start >= head.end) return atEnd;
  try {
    const atBegin = await firstDifference(client, store, head);
    if (atBegin !== undefined || atEnd === undefined) return atBegin;
    return await searchBetween(client, store, { timeline, start: head.end, end: atEnd });
  } catch (error) {
    // What is older the upstream need not have.
    if (isRemoved(error)) return atEnd;
    throw error;
  }
}

/** Narrows down where WAL begins to differ: all before `start` is the same, at `end` it is not. */
async function searchBetween(
  client: ReplicationClient,
  store: WalStore,
  { timeline, start, end }: WalRange,
): Promise<Lsn> {
  let same = alignDown(start, PAGE_BYTES);
  let different = end;
  for (;;) {
    const middle = alignDown(lsn((same + different) / 2n), PAGE_BYTES);
    if (middle <= same) break;
    const page = { timeline, start: middle, end: minLsn(advance(middle, PAGE_BYTES), different) };
    const found = await firstDifference(client, store, page);
    if (found === undefined) same = page.end;
    else different = found;
    if (same >= different) return different;
  }
  const rest = { timeline, start: same, end: different };
  return (await firstDifference(client, store, rest)) ?? different;
}

/**
 * The first position in the range where the upstream's bytes are others than the store's. It must
 * have WAL after the range's start: of an empty range, that it can send is all there is to find
 * out.
 */
export async function firstDifference(
  client: ReplicationClient,
  store: ComparableWal,
  range: WalRange,
): Promise<Lsn | undefined> {
  const stored = await readStored(store, range);
  const { start, timeline } = range;
  const answer = await client.startCopyBoth(formatStartReplication({ start, timeline }));
  // The timeline ends where the range begins: there is nothing to compare.
  if (answer.kind === 'results') return undefined;
  const comparison = new Comparison(range, stored);
  const isEnded = await comparison.run(client);
  await client.connection.send(COPY_DONE);
  if (!isEnded) await untilCopyDone(client);
  await client.results();
  return comparison.difference;
}

class Comparison {
  difference: Lsn | undefined;
  readonly #range: WalRange;
  readonly #stored: Buffer;
  #at: Lsn;
  #hasBegun = false;
  #insideWalData = false;

  constructor(range: WalRange, stored: Buffer) {
    this.#range = range;
    this.#stored = stored;
    this.#at = range.start;
  }

  /** Reads until the range is compared; true if the upstream has ended the stream there. */
  async run(client: ReplicationClient): Promise<boolean> {
    while (!this.#hasBegun || (this.difference === undefined && this.#at < this.#range.end)) {
      const messages = await client.connection.read();
      for (const [index, message] of messages.entries()) {
        if (message.type === BACKEND.ERROR_RESPONSE) throw errorFromResponse(message.body);
        this.#take(message);
        if (message.type !== BACKEND.COPY_DONE) continue;
        client.connection.unread(messages.slice(index + 1));
        return true;
      }
    }
    return false;
  }

  #take({ type, body, offset }: Message): void {
    if (type !== BACKEND.COPY_DATA) return;
    if (offset > 0) {
      if (this.#insideWalData) this.#compare(body);
      return;
    }
    this.#insideWalData = body[0] === REPLICATION_MESSAGE.WAL_DATA;
    if (!this.#insideWalData) return;
    this.#hasBegun = true;
    const { start } = decodeWalDataHeader(body);
    if (start !== this.#at && this.#at < this.#range.end) throw notContiguous(start, this.#at);
    this.#compare(body.subarray(WAL_DATA_HEADER_BYTES));
  }

  #compare(bytes: Buffer): void {
    const { start, end } = this.#range;
    if (this.difference !== undefined || this.#at >= end) return;
    const length = Math.min(bytes.length, distance(this.#at, end));
    const from = distance(start, this.#at);
    const stored = this.#stored.subarray(from, from + length);
    if (!stored.equals(bytes.subarray(0, length))) {
      const index = stored.findIndex((byte, i) => byte !== bytes[i]);
      this.difference = advance(this.#at, index);
    }
    this.#at = advance(this.#at, length);
  }
}

async function untilCopyDone(client: ReplicationClient): Promise<void> {
  for (;;) {
    const { type, body } = await client.next();
    if (type === BACKEND.COPY_DONE) return;
    if (type === BACKEND.ERROR_RESPONSE) throw errorFromResponse(body);
  }
}

async function readStored(store: ComparableWal, { start, end }: WalRange): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = start; at < end; ) {
    const chunk = await store.read(store.history, at, end);
    parts.push(Buffer.from(chunk.bytes));
    at = advance(at, chunk.bytes.length);
    chunk.release();
  }
  return Buffer.concat(parts);
}

function isRemoved(error: unknown): boolean {
  return error instanceof WalcadeError && error.sqlstate === SQLSTATE.UNDEFINED_FILE;
}

function notContiguous(start: Lsn, expected: Lsn): WalcadeError {
  return new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    `got WAL data at ${formatLsn(start)}, expected ${formatLsn(expected)}`,
  );
}
