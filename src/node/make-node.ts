/**
 * What all ways of making a node have in common: look at the upstream, make the slot there, have
 * the rest built, write the node's directory.
 *
 * Either all of it is done or nothing is left: not the directory, not the slot. What cannot be
 * taken back is told by a WARNING. It ends at once when its signal aborts, but for the time in
 * which an upstream may answer that the slot is dropped.
 */
import { basename, resolve } from 'node:path';
import type { Clock } from '../base/clock.ts';
import type { Disk } from '../base/disk.ts';
import { WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { configTemplate } from '../config/config-template.ts';
import { checkSupported, parseConninfo } from '../config/conninfo.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import type { Network } from '../protocol/network.ts';
import { checkSlotName } from '../protocol/replication-command.ts';
import { ClaimedDirectory } from './claimed-directory.ts';
import { MakingConnections } from './making-connections.ts';
import { makeSlot } from './making-slot.ts';
import { type NewNode, socketDirectories, writeNode } from './new-directory.ts';
import { slotNameOf } from './slot-name.ts';
import type { StoreStart } from './store-start.ts';
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
  /** A further connection to the upstream; all are closed in the end. */
  connect: () => Promise<ReplicationClient>;
  /** Registers what takes back a part of the work if the rest of it does not succeed. */
  onFailure: (undo: () => Promise<void>) => void;
  signal: AbortSignal;
}

/** What building a node gives. */
export interface Built {
  store: StoreStart;
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

export interface MakeOptions<B extends Built, C> {
  /** Looks at what can be looked at before anything is made; gives what `build` needs of it. */
  check: (upstream: UpstreamFacts) => Promise<C>;
  build: (making: Making, checked: C) => Promise<B>;
  /** What the directory may hold from the beginning, and what a failure leaves in it. */
  mayHold: readonly string[];
  leaves: readonly string[];
}

/**
 * Makes a node; throws what is wrong with the choice or the upstream, or the signal's reason, with
 * nothing left of it.
 */
export async function makeNode<B extends Built, C>(
  doors: MakingDoors,
  choice: NodeChoice,
  { check, build, mayHold, leaves }: MakeOptions<B, C>,
  signal: AbortSignal,
): Promise<MadeNode<B>> {
  const directory = resolve(choice.directory);
  const name = choice.name ?? basename(directory);
  const slot = choice.slot === false ? undefined : (choice.slot ?? slotNameOf(name));
  if (slot !== undefined) checkSlotName(slot);
  checkUpstream(choice.upstream);
  const settings = await settingsOf(choice, { name, slot });
  configTemplate(settings);
  const claimed = await ClaimedDirectory.claim(directory, { ...doors, mayHold });
  const undo = [() => claimed.abandon({ keep: [...mayHold, ...leaves] })];
  const onFailure = (action: () => Promise<void>): void => void undo.push(action);
  const reconnect = (until: AbortSignal): Promise<ReplicationClient> =>
    connectUpstream(doors, { text: choice.upstream, applicationName: name }, until);
  const connections = new MakingConnections(reconnect, signal);
  try {
    const client = await connections.connect();
    const upstream = await lookAtUpstream(client);
    const checked = await check(upstream);
    signal.throwIfAborted();
    if (slot !== undefined) await makeSlot(slot, { ...doors, client, reconnect, onFailure });
    const connect = (): Promise<ReplicationClient> => connections.connect();
    const making = { directory, upstream, slot, client, connect, onFailure, signal };
    const built = await build(making, checked);
    signal.throwIfAborted();
    const { store, server } = built;
    const config = configTemplate({ ...settings, ...server?.settings });
    await writeNode(doors.disk, { directory, name, config, upstream, store, slot, server });
    await claimed.release();
    return { name, slot, upstream, built };
  } catch (error) {
    const reason = connections.describe(error);
    for (const action of undo.toReversed()) {
      await action().catch((failure) => doors.log.warning(asWalcadeError(failure)));
    }
    throw reason;
  } finally {
    await connections.close();
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
export function checkUpstream(text: string): void {
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
