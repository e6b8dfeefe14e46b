/** `walcade adopt`: makes a node around a data directory, and says what it found and made. */
import { resolve } from 'node:path';
import { type AdoptOptions, adoptNode } from '../node/adopt-node.ts';
import { systemDoors } from '../node/system-doors.ts';
import { describeNode } from './init-command.ts';
import { interruptible, stderrLog } from './terminal.ts';

/** Makes the node that `flags` describe; throws with the data directory as it was. */
export async function adoptCommand(flags: AdoptOptions): Promise<void> {
  const { binDirectory } = flags;
  const options = {
    ...flags,
    binDirectory: binDirectory === undefined ? undefined : resolve(binDirectory),
  };
  const log = stderrLog(() => 'warning');
  const made = await adoptNode({ ...systemDoors, log }, options, interruptible());
  process.stdout.write(describeNode(made, options));
}
