/**
 * A relay's sending side in memory: store, slots and front door on a disk, a clock and connections
 * that the test holds. It has no receiver; its upstream is whatever `connectUpstream` gives, its
 * attached server, if it is to have one, whatever the test says.
 */
import type { Duplex } from 'node:stream';
import { Condition } from '../../src/base/condition.ts';
import { type LogEntry, createLog } from '../../src/base/log.ts';
import { parseHba } from '../../src/config/hba.ts';
import { FrontDoor, type FrontDoorSettings } from '../../src/node/front-door.ts';
import type { AttachedDoor } from '../../src/node/sql-sessions.ts';
import type { ReplicationClient } from '../../src/protocol/client.ts';
import { DownstreamTable } from '../../src/sender/downstreams.ts';
import type { SenderContext } from '../../src/sender/sender-context.ts';
import { HistoryFiles } from '../../src/store/history-files.ts';
import { SQLSTATE, WalcadeError } from '../../src/base/errors.ts';
import { duplexPair } from './duplex-pair.ts';
import { ManualClock } from './manual-clock.ts';
import { StoreUnderTest, WAL, newNodeDisk } from './test-store.ts';
import { CLUSTER } from './wal-walks.ts';

const HBA = 'host replication all all trust\nhost all all all trust\n';

export interface MemoryNodeOptions extends Partial<FrontDoorSettings> {
  server?: AttachedDoor;
}

export class MemoryNode {
  readonly clock = new ManualClock();
  /** The nodes above it; who changes it notifies `pathChanged`. */
  upstreamPath: readonly string[] = [];
  readonly pathChanged = new Condition();
  readonly log: LogEntry[] = [];
  readonly context: SenderContext;
  readonly door: FrontDoor;
  readonly #store: StoreUnderTest;

  private constructor(
    store: StoreUnderTest,
    histories: HistoryFiles,
    { server, ...changed }: MemoryNodeOptions,
  ) {
    this.#store = store;
    const settings = { server_version: '18.4', server_version_num: '180004' };
    this.context = {
      store: store.store,
      histories,
      slots: store.slots,
      downstreams: new DownstreamTable(store.slots),
      backupStarts: new Set(),
      systemIdentifier: CLUSTER,
      settings: () => ({
        walSenderTimeoutMs: 60_000,
        walReceiverTimeoutMs: 60_000,
        logReplicationCommands: false,
      }),
      upstreamSettings: () => settings,
      shownSettings: () => [
        { name: 'wal_segment_size', value: '1MB', description: 'How large segments are.' },
      ],
      upstreamPath: { current: () => this.upstreamPath, changed: this.pathChanged },
      attachedRedo: () => undefined,
      isInRecovery: () => true,
      hasUpstream: () => true,
      connectUpstream: (signal) => this.connectUpstream(signal),
      connectForBackup: (signal) => this.connectUpstream(signal),
      clock: this.clock,
    };
    const log = createLog((entry) => this.log.push(entry), { minimum: () => 'debug' });
    this.door = new FrontDoor({
      context: this.context,
      settings: () => ({
        authenticationTimeoutMs: 60_000,
        maxWalSenders: 1000,
        logConnections: false,
        hbaRules: parseHba(HBA, 'walcade_hba.conf'),
        ...changed,
      }),
      server,
      clock: this.clock,
      log,
    });
  }

  /** A node whose store holds `wal`, which begins at 0/100000, durably. */
  static async open(wal: Buffer, options: MemoryNodeOptions = {}): Promise<MemoryNode> {
    const disk = await newNodeDisk();
    const store = await StoreUnderTest.open(disk, { sleep: 'for ever' });
    await store.appendDurably(wal);
    return new MemoryNode(store, new HistoryFiles(disk, WAL), options);
  }

  get store(): StoreUnderTest {
    return this.#store;
  }

  /** What a further connection to the upstream is; a test may put another in its place. */
  connectUpstream: (signal: AbortSignal) => Promise<ReplicationClient> = () =>
    Promise.reject(new WalcadeError(SQLSTATE.UNABLE_TO_CONNECT, 'there is no upstream'));

  /** The client's end of a new connection. */
  connect(): Duplex {
    const [near, far] = duplexPair();
    near.on('error', () => {});
    far.on('error', () => {});
    this.door.accept(far, {
      transport: 'tcp',
      address: '192.0.2.7',
      port: 4711,
      localAddress: '192.0.2.1',
    });
    return near;
  }

  async close(): Promise<void> {
    this.door.close();
    await this.#store.stop();
  }
}
