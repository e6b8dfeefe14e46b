/**
 * A downstream that a test plays itself, on walcade's own client: it sends replication commands,
 * and receives WAL as strictly as pg_receivewal does, keeping a digest of it and no bytes.
 *
 * It lives in a TestDirectory, which closes it when the test ends.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { systemClock } from '../../src/base/clock.ts';
import { parseConninfo } from '../../src/config/conninfo.ts';
import { BACKEND } from '../../src/protocol/backend-messages.ts';
import { ReplicationClient } from '../../src/protocol/client.ts';
import { systemNetwork } from '../../src/protocol/network.ts';
import { formatStartReplication } from '../../src/protocol/replication-command.ts';
import {
  REPLICATION_MESSAGE,
  WAL_DATA_HEADER_BYTES,
  decodeKeepalive,
  decodeWalDataHeader,
  encodeStatusUpdate,
} from '../../src/protocol/replication-messages.ts';
import {
  INVALID_LSN,
  type Lsn,
  type TimelineId,
  advance,
  distance,
  minLsn,
  timelineId,
} from '../../src/wal/lsn.ts';
import type { Member, TestDirectory } from './test-directory.ts';

export interface WalRange {
  start: Lsn;
  end: Lsn;
  timeline?: TimelineId;
  slot?: string;
}

export class WalClient implements Member {
  readonly name: string;
  readonly client: ReplicationClient;
  #position: Lsn = INVALID_LSN;

  private constructor(name: string, client: ReplicationClient) {
    this.name = name;
    this.client = client;
  }

  static async connect(
    tree: TestDirectory,
    conninfo: string,
    { name = 'client' }: { name?: string } = {},
  ): Promise<WalClient> {
    const { addresses, user } = parseConninfo(conninfo);
    const client = await ReplicationClient.connect({
      network: systemNetwork,
      clock: systemClock,
      addresses,
      user,
      password: () => undefined,
      allowsAuthentication: () => true,
      sessionAttributes: 'any',
      parameters: { database: 'replication', replication: 'true', application_name: name },
      connectTimeoutMs: 10_000,
      signal: new AbortController().signal,
    });
    return tree.add(new WalClient(name, client));
  }

  /** The rows of a command's last result set, values as text. */
  async query(command: string): Promise<(string | null)[][]> {
    const results = await this.client.query(command);
    return (results.at(-1)?.rows ?? []).map((row) => row.map((v) => v?.toString() ?? null));
  }

  /**
   * Receives the WAL from `start` to `end` and gives its SHA-256; refuses a gap, an overlap and a
   * message that is longer than PostgreSQL's. It acknowledges all, then the copy is still open.
   * Throws what the server says instead; the session then is ready for the next command.
   */
  async receive({ start, end, timeline = timelineId(1), slot }: WalRange): Promise<string> {
    const hash = createHash('sha256');
    const command = formatStartReplication({
      start,
      timeline,
      ...(slot === undefined ? {} : { slot }),
    });
    assert.equal((await this.client.startCopyBoth(command)).kind, 'streaming');
    this.#position = start;
    let isWalData = false;
    while (this.#position < end) {
      const message = await this.client.next();
      const { type, body, offset, bodyBytes } = message;
      if (type === BACKEND.ERROR_RESPONSE) {
        this.client.connection.unread([message]);
        await this.client.results();
      }
      assert.equal(type, BACKEND.COPY_DATA);
      let wal = body;
      if (offset === 0) {
        isWalData = body[0] === REPLICATION_MESSAGE.WAL_DATA;
        if (!isWalData) {
          if (decodeKeepalive(body).replyRequested) await this.acknowledge();
          continue;
        }
        assert.equal(decodeWalDataHeader(body).start, this.#position, 'WAL comes without a gap');
        assert.ok(bodyBytes <= WAL_DATA_HEADER_BYTES + 131_072, 'a message has 16 pages at most');
        wal = body.subarray(WAL_DATA_HEADER_BYTES);
      }
      const wanted = distance(this.#position, minLsn(end, advance(this.#position, wal.length)));
      hash.update(wal.subarray(0, wanted));
      this.#position = advance(this.#position, wal.length);
    }
    await this.acknowledge();
    return hash.digest('hex');
  }

  /** Tells that all that was received is written and flushed. */
  async acknowledge(position: Lsn = this.#position): Promise<void> {
    await this.client.connection.send(
      encodeStatusUpdate({
        write: position,
        flush: position,
        apply: INVALID_LSN,
        sentAt: systemClock.timestampUs(),
        replyRequested: false,
      }),
    );
  }

  async end(): Promise<void> {
    await this.client.close();
  }
}
