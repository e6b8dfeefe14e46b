/** `walcade follow`: has a running node go over to another upstream, and shows what came of it. */
import { readStatus, requestFollow } from '../admin/control-client.ts';
import type { Report } from '../admin/follow-outcome.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { CONTROL_SOCKET } from '../node/node-directory.ts';
import { askIfRunning, notRunning } from './asked-node.ts';
import { printNotice } from './terminal.ts';

/** Throws why the node does not follow the upstream that `conninfo` names. */
export async function followCommand(directory: string, conninfo: string): Promise<void> {
  const asked = await askIfRunning(directory, (path) => requestFollow(path, conninfo));
  if (asked.kind === 'stopped') {
    throw notRunning(directory, {
      detail: 'A node finds out whether it can follow an upstream while it runs.',
      hint: 'Start it first, or set "primary_conninfo" in its walcade.conf.',
    });
  }
  const { error, notices } = asked.answer;
  for (const notice of notices) printNotice(notice);
  if (error !== null) throw asError(error);
  const { name, timeline, upstream } = await readStatus(CONTROL_SOCKET);
  const where = upstream.address ?? upstream.conninfo;
  process.stdout.write(
    `node "${name}" follows ${where}, ${upstream.state}, timeline ${timeline}\n`,
  );
}

function asError({ message, detail, hint }: Report): WalcadeError {
  return new WalcadeError(SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE, message, { detail, hint });
}
