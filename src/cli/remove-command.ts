/** `walcade remove`: asks, then drops the slot on the upstream and deletes the node's directory. */
import { checkRemovable, removeNode } from '../node/remove-node.ts';
import { systemDoors } from '../node/system-doors.ts';
import { confirm, stderrLog } from './terminal.ts';

const NEVER = new AbortController().signal;

/** Resolves to the exit status: 1 when the answer was no. Throws with nothing removed. */
export async function removeCommand(directory: string, { yes }: { yes: boolean }): Promise<number> {
  const { slot } = await checkRemovable(directory);
  const what = slot === undefined ? '' : `drop replication slot "${slot}" on the upstream and `;
  if (!yes && !(await confirm(`This will ${what}delete "${directory}" with its WAL. Go on?`))) {
    process.stderr.write('nothing was removed (use --yes to remove without a question)\n');
    return 1;
  }
  const log = stderrLog(() => 'warning');
  await removeNode({ ...systemDoors, log }, directory, NEVER);
  const dropped = slot === undefined ? '' : `, slot "${slot}" dropped on the upstream`;
  process.stdout.write(`node in "${directory}" removed${dropped}\n`);
  return 0;
}
