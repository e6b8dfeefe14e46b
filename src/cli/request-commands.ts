/** `walcade reload` and `promote`: what a running node is asked to do. */
import { requestPromotion, requestReload } from '../admin/control-client.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { askRunning } from './asked-node.ts';

/** Has the running node read its configuration files again; throws what is wrong with them. */
export async function reloadCommand(directory: string): Promise<void> {
  const { error, needRestart } = await askRunning(directory, requestReload);
  if (error !== null) {
    const { message, detail, hint = 'The node goes on with the configuration it had.' } = error;
    throw new WalcadeError(SQLSTATE.CONFIG_FILE_ERROR, message, { detail, hint });
  }
  process.stdout.write('configuration files were read again\n');
  for (const name of needRestart) {
    process.stdout.write(`parameter "${name}" has changed; it takes effect after a restart\n`);
  }
}

/** Promotes the running node, and waits until it takes writes; throws why it does not. */
export async function promoteCommand(
  directory: string,
  { force, timeoutSeconds }: { force: boolean; timeoutSeconds: number },
): Promise<void> {
  let isAsked = false;
  const onAsked = (): void => {
    isAsked = true;
    process.stdout.write('waiting for node to promote...');
  };
  const request = { force, timeoutMs: timeoutSeconds * 1000 };
  const { error } = await askRunning(directory, (socketPath) =>
    requestPromotion(socketPath, request, onAsked),
  ).finally(() => {
    if (isAsked) process.stdout.write('.');
  });
  process.stdout.write(error === null ? ' done\nnode promoted\n' : ' stopped waiting\n');
  if (error === null) return;
  const { message, detail, hint } = error;
  throw new WalcadeError(SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE, message, { detail, hint });
}
