/** `walcade remove`: asks, then drops the slot on the upstream and deletes the node's directory. */
import { type Removal, checkRemovable, removeNode } from '../node/remove-node.ts';
import { systemDoors } from '../node/system-doors.ts';
import { confirm, stderrLog } from './terminal.ts';

const NEVER = new AbortController().signal;

/** Resolves to the exit status: 1 when the answer was no. Throws with nothing removed. */
export async function removeCommand(directory: string, { yes }: { yes: boolean }): Promise<number> {
  const removal = await checkRemovable(systemDoors.disk, directory);
  if (!yes && !(await confirm(`This will ${describeRemoval(directory, removal)}. Go on?`))) {
    process.stderr.write('nothing was removed (use --yes to remove without a question)\n');
    return 1;
  }
  const log = stderrLog(() => 'warning');
  await removeNode({ ...systemDoors, log }, directory, NEVER);
  const { slot, left } = removal;
  const dropped = slot === undefined ? '' : `, slot "${slot}" dropped on the upstream`;
  const stays = left.length === 0 ? '' : `; its data is left in ${quoted(left)}`;
  process.stdout.write(`node in "${directory}" removed${dropped}${stays}\n`);
  return 0;
}

/** `drop replication slot "x" on the upstream and delete "node" with its WAL`. */
function describeRemoval(directory: string, { slot, left }: Removal): string {
  const drop = slot === undefined ? '' : `drop replication slot "${slot}" on the upstream and `;
  const stays = left.length === 0 ? '' : `, leaving the data in ${quoted(left)}`;
  return `${drop}delete "${directory}" with all that is in it${stays}`;
}

function quoted(directories: readonly string[]): string {
  return directories.map((directory) => `"${directory}"`).join(', ');
}
