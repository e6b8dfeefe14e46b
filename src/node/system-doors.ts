/** The doors to the world that a node goes through when it is no test's: this machine's. */
import { type Clock, systemClock } from '../base/clock.ts';
import { type Disk, systemDisk } from '../base/disk.ts';
import { type Network, systemNetwork } from '../protocol/network.ts';

export const systemDoors: { disk: Disk; network: Network; clock: Clock } = {
  disk: systemDisk,
  network: systemNetwork,
  clock: systemClock,
};
