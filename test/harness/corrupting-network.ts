/**
 * A network that flips bits in what a node receives from its upstream: in the bytes after a marker,
 * a different one each time. All else passes as it is.
 */
import { type Network, systemNetwork } from '../../src/protocol/network.ts';

export interface CorruptingNetwork extends Network {
  isCorrupting: boolean;
  readonly corruptedCount: number;
}

/** Flips a bit within each chunk that holds `marker`, while `isCorrupting`. */
export function corruptingNetwork(marker: string): CorruptingNetwork {
  let corruptedCount = 0;
  const corrupt = (chunk: Buffer): void => {
    const at = chunk.indexOf(marker, 'latin1');
    if (at < 0) return;
    const victim = at + (corruptedCount % marker.length);
    chunk.writeUInt8(chunk.readUInt8(victim) ^ (1 << (corruptedCount % 8)), victim);
    corruptedCount += 1;
  };
  const network: CorruptingNetwork = {
    ...systemNetwork,
    isCorrupting: false,
    get corruptedCount() {
      return corruptedCount;
    },
    connect: async (address, signal) => {
      const socket = await systemNetwork.connect(address, signal);
      // The first listener sees each chunk before the node does.
      socket.on('data', (chunk: Buffer) => {
        if (network.isCorrupting) corrupt(chunk);
      });
      socket.pause();
      return socket;
    },
  };
  return network;
}
