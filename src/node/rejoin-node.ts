/**
 * `walcade rejoin`: a node whose server was the primary, or has gone further than the one that was
 * promoted, comes back as a standby of it.
 *
 *   look ─▶ ask ─▶ slot ─▶ take the data back (rejoin-marker.ts) ─▶ store, configuration ─▶ stopped
 *
 * The node's lock is held all the time. Until its data are touched a failure leaves all as it was;
 * from then on what is done is noted, a start is refused, and the next rejoin finishes it.
 */
import fs from 'node:fs/promises';
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { changeParameter, checkChange } from '../config/conf-change.ts';
import { makeStandby } from '../postgres/data-directory.ts';
import { FileChanges } from '../postgres/file-changes.ts';
import { readRecoveryStart } from '../postgres/recovery-start.ts';
import { checkDataDirectoryAccess } from '../postgres/server-access.ts';
import { removeServerSlots } from '../postgres/server-slots.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { hasUpstreamSlot } from '../receiver/upstream-slot.ts';
import { type Lsn, formatLsn } from '../wal/lsn.ts';
import { type MakingDoors, checkUpstream } from './make-node.ts';
import { MakingConnections } from './making-connections.ts';
import { makeSlot } from './making-slot.ts';
import { checkNodeDirectory } from './node-directory.ts';
import { lockNode } from './node-lock.ts';
import { tablespacesOf } from './node-place.ts';
import { replaceByBackup } from './rejoin-backup.ts';
import {
  type RejoinStep,
  forgetRejoin,
  hasUsableData,
  noteRejoinStep,
  readRejoinStep,
} from './rejoin-marker.ts';
import { RejoinPlaces } from './rejoin-places.ts';
import type { LostWal } from './rejoin-plan.ts';
import { type Proposal, proposeRejoin } from './rejoin-proposal.ts';
import { type RewindParts, rewindData } from './rejoin-rewind.ts';
import { type StoreCourse, beginAnew, chooseStore } from './rejoin-store.ts';
import { type NewUpstream, checkNewUpstream } from './rejoin-upstream.ts';
import { checkStopped } from './stopped-data.ts';
import { type StoppedNode, findDataDirectory, readStoppedNode } from './stopped-node.ts';
import { readHistory } from './store-start.ts';
import { connectForSql, connectUpstream } from './upstream-connector.ts';
import { type UpstreamFacts, lookAtUpstream } from './upstream-facts.ts';

export interface RejoinOptions {
  directory: string;
  upstream: string;
  /** Where PostgreSQL's programs are; undefined for where the node has them. */
  binDirectory: string | undefined;
  tablespaceMapping: ReadonlyMap<string, string>;
  onProgress: (progress: { doneBytes: number; totalBytes: number }) => void;
  /** Asked before data are taken back. */
  confirm: (proposal: Proposal, upstream: UpstreamFacts) => Promise<boolean>;
}

export interface Rejoined {
  node: StoppedNode;
  upstream: UpstreamFacts;
  method: Proposal['method'];
  store: StoreCourse;
  backupBytes: number | undefined;
  /** Tablespaces of a data directory that was replaced. */
  left: string[];
}

/** A lock file names a port; who changes a node has none. */
const NO_PORT = 0;

/** Resolves to undefined, with nothing changed, if the answer was no. */
export async function rejoinNode(
  doors: MakingDoors,
  options: RejoinOptions,
  signal: AbortSignal,
): Promise<Rejoined | undefined> {
  checkUpstream(options.upstream);
  await checkNodeDirectory(options.directory);
  const directory = await fs.realpath(options.directory);
  const lock = await lockNode(directory, doors.clock);
  try {
    await lock.describe('making', NO_PORT);
    return await rejoinLocked(doors, { ...options, directory }, signal);
  } finally {
    await lock.release();
  }
}

async function rejoinLocked(
  doors: MakingDoors,
  options: RejoinOptions,
  signal: AbortSignal,
): Promise<Rejoined | undefined> {
  const { directory, upstream: text, binDirectory } = options;
  const dataDirectory = await findDataDirectory(directory);
  await checkStopped(dataDirectory);
  const step = await readRejoinStep(directory);
  const places = new RejoinPlaces(doors.disk, dataDirectory);
  await places.settle(step);
  const node = await readStoppedNode(doors.disk, { directory, dataDirectory, binDirectory });
  await checkDataDirectoryAccess(dataDirectory, node.user);
  const { clusterName: applicationName } = node.config;
  const reconnect = (until: AbortSignal): Promise<ReplicationClient> =>
    connectUpstream(doors, { text, applicationName }, until);
  const connections = new MakingConnections(reconnect, signal);
  const connect = (): Promise<ReplicationClient> => connections.connect();
  const parts = { node, places, step, connect, reconnect, signal };
  const rejoining = new Rejoining(doors, options, parts);
  try {
    return await rejoining.run();
  } catch (error) {
    throw await rejoining.endBy(connections.describe(error));
  } finally {
    await connections.close();
  }
}

interface RejoiningParts {
  node: StoppedNode;
  places: RejoinPlaces;
  /** Where an earlier one was broken off. */
  step: RejoinStep | undefined;
  connect: () => Promise<ReplicationClient>;
  reconnect: (until: AbortSignal) => Promise<ReplicationClient>;
  signal: AbortSignal;
}

class Rejoining {
  readonly #doors: MakingDoors;
  readonly #options: RejoinOptions;
  readonly #parts: RejoiningParts;
  readonly #undo: (() => Promise<void>)[] = [];

  constructor(doors: MakingDoors, options: RejoinOptions, parts: RejoiningParts) {
    this.#doors = doors;
    this.#options = options;
    this.#parts = parts;
  }

  async run(): Promise<Rejoined | undefined> {
    const { node, step, places, signal } = this.#parts;
    const { upstream: text } = this.#options;
    const upstream = await this.#lookAtUpstream();
    const connectForSql = (): Promise<ReplicationClient> => this.#connectForSql();
    const parts = { node, upstream, text, connectForSql, signal };
    const proposal = await proposeRejoin(this.#doors.disk, { ...parts, step });
    for (const [name, value] of this.#confChanges()) {
      await checkChange(node.directory, name, value);
    }
    if (proposal.method === 'base backup') await places.check();
    if (proposal.method !== 'as it is') {
      // Once its data were touched, there is no way back.
      const isAgreed =
        !hasUsableData(step) || (await this.#options.confirm(proposal, upstream.facts));
      if (!isAgreed) return undefined;
    }
    signal.throwIfAborted();
    await this.#claimSlot();
    const rejoined = { node, upstream: upstream.facts, method: proposal.method };
    if (proposal.method === 'as it is') {
      const { store } = proposal;
      await this.#finish(store);
      return { ...rejoined, store, backupBytes: undefined, left: [] };
    }
    if (proposal.method === 'pg_rewind') {
      const store = await this.#rewind({ ...parts, data: proposal.data }, proposal.lost);
      if (store !== undefined) {
        await this.#finish(store);
        return { ...rejoined, store, backupBytes: undefined, left: [] };
      }
    }
    const tablespaces = await tablespacesOf(node.dataDirectory);
    const { store, bytes } = await this.#replace(upstream);
    await this.#finish(store);
    const left = tablespaces.map(({ location }) => location);
    return { ...rejoined, method: 'base backup', store, backupBytes: bytes, left };
  }

  /** Takes back what can be, after `error`; gives it with what is to be done about the rest. */
  async endBy(error: unknown): Promise<unknown> {
    const step = await readRejoinStep(this.#options.directory);
    if (step !== undefined && step !== 'copying') return unfinished(error);
    for (const action of this.#undo.toReversed()) {
      await action().catch((failure) => this.#doors.log.warning(asWalcadeError(failure)));
    }
    return error;
  }

  async #lookAtUpstream(): Promise<NewUpstream> {
    const { node, connect } = this.#parts;
    const client = await connect();
    const facts = await lookAtUpstream(client);
    await checkNewUpstream(node, facts, client);
    const history = await readHistory(client, facts.identity.timeline);
    return { facts, history, client, connect };
  }

  /** One of this name that is there is this node's, from an earlier time. */
  async #claimSlot(): Promise<void> {
    const { node, connect, reconnect } = this.#parts;
    if (node.slot === undefined) return;
    // Another connection may have been idle for as long as somebody thought about it.
    const client = await connect();
    const isThere = await hasUpstreamSlot(client, node.slot);
    if (isThere === true) return;
    const onFailure = (action: () => Promise<void>): void => void this.#undo.push(action);
    try {
      await makeSlot(node.slot, { ...this.#doors, client, reconnect, onFailure });
    } catch (error) {
      const { sqlstate } = asWalcadeError(error);
      if (isThere === undefined && sqlstate === SQLSTATE.DUPLICATE_OBJECT) return;
      throw error;
    }
  }

  #connectForSql(): Promise<ReplicationClient> {
    const { node, signal } = this.#parts;
    const { clusterName: applicationName } = node.config;
    return connectForSql(this.#doors, { text: this.#options.upstream, applicationName }, signal);
  }

  /** What becomes of the store; undefined if nothing comes of pg_rewind. */
  async #rewind(parts: RewindParts, loss: LostWal): Promise<StoreCourse | undefined> {
    const { disk, log } = this.#doors;
    const { directory } = this.#options;
    const { node, connect } = this.#parts;
    const onBegin = (): Promise<void> => noteRejoinStep(disk, directory, 'rewinding');
    const refusal = await rewindData(this.#doors, parts, { loss, onBegin });
    if (refusal !== undefined) {
      log.warning(noRewind(refusal));
      return undefined;
    }
    const redo = await readRecoveryStart(node.dataDirectory);
    const client = await connect();
    const store = await chooseStore(disk, node, { ...parts.upstream, client }, redo);
    if (store === undefined) log.warning(noRewind(`WAL from ${formatLsn(redo)} on is nowhere.`));
    return store;
  }

  async #replace(upstream: NewUpstream): Promise<{ store: StoreCourse; bytes: number }> {
    const { node, places, connect, signal } = this.#parts;
    const { tablespaceMapping, onProgress } = this.#options;
    // What pg_rewind takes back may be where no other data can be put in its place.
    await places.check();
    const client = await connect();
    let store: StoreCourse | undefined;
    const backup = await replaceByBackup(this.#doors, {
      node,
      places,
      isBroken: !hasUsableData(await readRejoinStep(node.directory)),
      client,
      serverVersionNum: upstream.facts.versionNum,
      tablespaceMapping,
      onProgress,
      check: async ({ start }) => {
        store = await chooseStore(this.#doors.disk, node, { ...upstream, client }, start);
        if (store === undefined) throw walRemoved(start);
      },
      signal,
    });
    assert(store !== undefined, 'a backup that is put in place was checked');
    return { store, bytes: backup.bytes };
  }

  /** The node follows the upstream from its next start on. */
  async #finish(store: StoreCourse): Promise<void> {
    const { node } = this.#parts;
    const { disk } = this.#doors;
    const { directory } = this.#options;
    const { dataDirectory, user } = node;
    await noteRejoinStep(disk, directory, 'finishing');
    await removeServerSlots(disk, dataDirectory, user);
    await makeStandby(dataDirectory, new FileChanges(user));
    if (store.kind === 'begins anew') await beginAnew(disk, node, store);
    for (const [name, value] of this.#confChanges()) await changeParameter(directory, name, value);
    await forgetRejoin(disk, directory);
  }

  /** What walcade.conf is to say in the end. */
  #confChanges(): (readonly [name: string, value: string])[] {
    const { upstream, binDirectory } = this.#options;
    const { slot = '', config } = this.#parts.node;
    const changes: [string, string][] = [['primary_conninfo', upstream]];
    if (slot !== config.primarySlotName) changes.push(['primary_slot_name', slot]);
    if (binDirectory !== undefined) changes.push(['postgres_bin_directory', binDirectory]);
    return changes;
  }
}

function noRewind(reason: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'pg_rewind is of no use here, a base backup is taken',
    { detail: reason },
  );
}

function walRemoved(start: Lsn): WalcadeError {
  return new WalcadeError(
    SQLSTATE.UNDEFINED_FILE,
    `upstream has removed the WAL that its own base backup needs, from ${formatLsn(start)} on`,
    { hint: 'Set "primary_slot_name" in walcade.conf, or raise "wal_keep_size" on the upstream.' },
  );
}

function unfinished(error: unknown): WalcadeError {
  const { sqlstate, message, detail, hint } = asWalcadeError(error);
  const again = 'Run "walcade rejoin" again: it finishes what was begun.';
  return new WalcadeError(sqlstate, message, {
    detail,
    hint: hint === undefined ? again : `${hint} ${again}`,
    cause: error,
  });
}
