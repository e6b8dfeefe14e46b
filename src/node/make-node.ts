/**
 * What all ways of making a node have in common: look at the upstream, make the slot there, have
 * the rest built, write the node's directory.
 *
 * Either all of it is done or nothing is left: not the directory, not the slot.
 */
import { basename, resolve } from 'node:path';
import type { Clock } from '../base/clock.ts';
import type { Disk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { configTemplate } from '../config/config-template.ts';
import { checkSupported, parseConninfo } from '../config/conninfo.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import type { Network } from '../protocol/network.ts';
import { checkSlotName, formatDropSlot } from '../protocol/replication-command.ts';
import { createUpstreamSlot } from '../receiver/upstream-slot.ts';
import type { Lsn } from '../wal/lsn.ts';
import {
  type NewNode,
  emptyDirectory,
  makeEmptyDirectory,
  socketDirectories,
  writeNode,
} from './new-directory.ts';
import { slotNameOf } from './slot-name.ts';
import { connectUpstream } from './upstream-connector.ts';
import { type UpstreamFacts, lookAtUpstream } from './upstream-facts.ts';

/** What is chosen for a new node, however it is made. */
export interface NodeChoice {
  directory: string;
  upstream: string;
  name: string | undefined;
  port: string | undefined;
  listenAddresses: string | undefined;
  /** undefined: the node's name; false: no slot. */
  slot: string | false | undefined;
}

export interface MakingDoors {
  disk: Disk;
  network: Network;
  clock: Clock;
  log: Log;
}

/** What a node is built with, while it is being made. */
export interface Making {
  directory: string;
  upstream: UpstreamFacts;
  slot: string | undefined;
  client: ReplicationClient;
  /** A further connection to the upstream. */
  connect: () => Promise<ReplicationClient>;
  /** Registers what takes back a part of the work if the rest of it does not succeed. */
  onFailure: (undo: () => Promise<unknown>) => void;
  signal: AbortSignal;
}

/** What building a node gives. */
export interface Built {
  start: Lsn;
  server?: NonNullable<NewNode['server']> & {
    /** As walcade.conf has them. */
    settings: { data_directory: string; postgres_bin_directory?: string };
  };
}

export interface MadeNode<B extends Built> {
  name: string;
  slot: string | undefined;
  upstream: UpstreamFacts;
  built: B;
}

export interface MakeOptions<B extends Built> {
  /** Looks at what can be looked at before anything is made. */
  check: (upstream: UpstreamFacts) => Promise<void>;
  build: (making: Making) => Promise<B>;
  /** What the directory may hold from the beginning, and what a failure leaves in it. */
  mayHold: readonly string[];
  leaves: readonly string[];
}

/** Makes a node; throws what is wrong with the choice or the upstream, with nothing left of it. */
export async function makeNode<B extends Built>(
  doors: MakingDoors,
  choice: NodeChoice,
  { check, build, mayHold, leaves }: MakeOptions<B>,
  signal: AbortSignal,
): Promise<MadeNode<B>> {
  const directory = resolve(choice.directory);
  const name = choice.name ?? basename(directory);
  const slot = choice.slot === false ? undefined : (choice.slot ?? slotNameOf(name));
  if (slot !== undefined) checkSlotName(slot);
  checkUpstream(choice.upstream);
  const settings = await settingsOf(choice, { name, slot });
  configTemplate(settings);
  const isMade = await makeEmptyDirectory(directory, { mayHold });
  const undo: (() => Promise<unknown>)[] = [
    () => emptyDirectory(directory, { isMade, keep: [...mayHold, ...leaves] }),
  ];
  const target = { text: choice.upstream, applicationName: name };
  const connect = (): Promise<ReplicationClient> => connectUpstream(doors, target, signal);
  try {
    const client = await connect();
    undo.push(() => client.close());
    const upstream = await lookAtUpstream(client);
    await check(upstream);
    signal.throwIfAborted();
    if (slot !== undefined) {
      await createSlot(client, slot);
      undo.push(() => dropSlot(doors, { client, slot, target }));
    }
    const onFailure = (action: () => Promise<unknown>): void => void undo.push(action);
    const built = await build({ directory, upstream, slot, client, connect, onFailure, signal });
    signal.throwIfAborted();
    const { start, server } = built;
    const config = configTemplate({ ...settings, ...server?.settings });
    await writeNode(doors.disk, { directory, name, config, upstream, start, slot, server });
    await client.close();
    return { name, slot, upstream, built };
  } catch (error) {
    for (const action of undo.toReversed()) await action().catch(() => {});
    throw error;
  }
}

async function settingsOf(
  { port, listenAddresses, upstream }: NodeChoice,
  { name, slot }: { name: string; slot: string | undefined },
) {
  return {
    cluster_name: name,
    ...(port === undefined ? {} : { port }),
    ...(listenAddresses === undefined ? {} : { listen_addresses: listenAddresses }),
    unix_socket_directories: (await socketDirectories()).join(', '),
    primary_conninfo: upstream,
    primary_slot_name: slot ?? '',
  };
}

/** Throws unless `text` is a connection string that can be used, saying how one looks. */
function checkUpstream(text: string): void {
  try {
    checkSupported(parseConninfo(text));
  } catch (error) {
    const { sqlstate, message, detail, hint } = asWalcadeError(error);
    throw new WalcadeError(sqlstate, `invalid upstream: ${message}`, {
      detail,
      hint: hint ?? 'Write it as libpq does: "host=db1.example port=5432 user=replicator".',
      cause: error,
    });
  }
}

async function createSlot(client: ReplicationClient, slot: string): Promise<void> {
  try {
    await createUpstreamSlot(client, slot);
  } catch (error) {
    if (!(error instanceof WalcadeError) || error.sqlstate !== SQLSTATE.DUPLICATE_OBJECT) {
      throw error;
    }
    throw new WalcadeError(error.sqlstate, `${error.message} on the upstream`, {
      hint: 'Choose another name with --slot, or drop that slot if nobody needs it.',
      cause: error,
    });
  }
}

/** Long enough for an upstream that answers, short enough for who waits after Ctrl-C. */
const DROP_TIMEOUT_MS = 5000;

/** A slot that nobody uses keeps WAL for ever: if it cannot be dropped, somebody must know. */
async function dropSlot(
  doors: MakingDoors,
  {
    client,
    slot,
    target,
  }: {
    client: ReplicationClient;
    slot: string;
    target: Parameters<typeof connectUpstream>[1];
  },
): Promise<void> {
  const drop = async (over: ReplicationClient, signal: AbortSignal): Promise<void> => {
    signal.addEventListener('abort', () => over.connection.close(), { once: true });
    try {
      await over.query(formatDropSlot(slot));
    } finally {
      await over.close();
    }
  };
  try {
    await inTime(doors.clock, (signal) => drop(client, signal)).catch(() =>
      inTime(doors.clock, async (signal) =>
        drop(await connectUpstream(doors, target, signal), signal),
      ),
    );
  } catch (error) {
    const { sqlstate, message } = asWalcadeError(error);
    doors.log.warning(
      new WalcadeError(sqlstate, `could not drop replication slot "${slot}": ${message}`, {
        hint: 'Drop it on the upstream, since it holds WAL there.',
      }),
    );
  }
}

/** Does `action`, whose signal aborts when it takes too long: it says why then. */
async function inTime<T>(clock: Clock, action: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const late = new AbortController();
  const timer = clock.setTimer(DROP_TIMEOUT_MS, () => {
    const seconds = DROP_TIMEOUT_MS / 1000;
    const message = `no answer from the upstream within ${seconds} s`;
    late.abort(new WalcadeError(SQLSTATE.CONNECTION_FAILURE, message));
  });
  try {
    return await action(late.signal);
  } catch (error) {
    late.signal.throwIfAborted();
    throw error;
  } finally {
    timer.cancel();
  }
}
