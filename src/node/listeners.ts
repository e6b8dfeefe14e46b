/**
 * Where the node listens: every address of listen_addresses, and a socket in each of
 * unix_socket_directories. Either all are open or none.
 */
import type { Duplex } from 'node:stream';
import { SQLSTATE, WalcadeError, systemErrorCode } from '../base/errors.ts';
import {
  type Listener,
  type Network,
  type PeerAddress,
  describeAddress,
} from '../protocol/network.ts';

export interface ListenSettings {
  port: number;
  listenAddresses: readonly string[];
  unixSocketDirectories: readonly string[];
  unixSocketPermissions: number;
}

export interface Listeners {
  /** Each address, as people read it. */
  addresses: string[];
  close(): void;
}

/** Opens all listeners; throws the first refusal, with none left open. */
export async function openListeners(
  network: Network,
  { port, listenAddresses, unixSocketDirectories, unixSocketPermissions }: ListenSettings,
  accept: (socket: Duplex, peer: PeerAddress) => void,
): Promise<Listeners> {
  const open: Listener[] = [];
  const addresses: string[] = [];
  const close = (): void => {
    for (const listener of open.splice(0)) listener.close();
  };
  const listen = async (host: string): Promise<void> => {
    open.push(await network.listen({ host, port }, { accept, mode: unixSocketPermissions }));
    addresses.push(describeAddress({ host, port }));
  };
  try {
    for (const address of listenAddresses) {
      for (const host of await hostsOf(network, address)) await listenIfPossible(host, listen);
    }
    for (const directory of unixSocketDirectories) await listen(directory);
    if (open.length === 0) throw nowhereToListen();
  } catch (error) {
    close();
    throw error;
  }
  return { addresses, close };
}

async function hostsOf(network: Network, address: string): Promise<string[]> {
  if (address === '*') return ['0.0.0.0', '::'];
  return network.resolve(address);
}

/** A machine without IPv6 still knows ::1 as a name of its own. */
async function listenIfPossible(
  host: string,
  listen: (host: string) => Promise<void>,
): Promise<void> {
  try {
    await listen(host);
  } catch (error) {
    const code = systemErrorCode(error instanceof WalcadeError ? error.cause : error);
    const hasNoIpv6 = code === 'EADDRNOTAVAIL' || code === 'EAFNOSUPPORT';
    if (!(host.includes(':') && hasNoIpv6)) throw error;
  }
}

function nowhereToListen(): WalcadeError {
  return new WalcadeError(SQLSTATE.CONFIG_FILE_ERROR, 'there is no address to listen on', {
    hint: 'Set "listen_addresses" or "unix_socket_directories".',
  });
}
