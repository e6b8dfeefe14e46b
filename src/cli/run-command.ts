/** `walcade run`: the node in the foreground, until a signal ends it. */
import type { LogLevel } from '../base/log.ts';
import { runNode } from '../node/node.ts';
import { systemDoors } from '../node/system-doors.ts';
import { stderrLog } from './terminal.ts';

/** Runs the node in `directory`; resolves to the exit status. */
export async function runCommand(directory: string): Promise<number> {
  // Relative from here on: short socket paths, and nothing in the node that says where it is.
  process.chdir(directory);
  let minimum: LogLevel = 'log';
  const log = stderrLog(() => minimum);
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => stop.abort(new Error(`received ${name}`)));
  }
  process.on('SIGQUIT', () => {
    log.log('received immediate shutdown request');
    abandon();
    process.exit(2);
  });
  // A log that cannot be written (a full disk) and a reader of "ready" that has left end nothing.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  // SIGHUP before there is anything to reload must not end the node.
  let reload = async (): Promise<void> => {};
  let abandon = (): void => {};
  process.on('SIGHUP', () => void reload());
  try {
    await runNode(
      {
        directory: '.',
        ...systemDoors,
        log,
        onReady: (listening) => process.stdout.write(`ready on ${listening.join(', ')}\n`),
        onControls: (controls) => ({ reload, abandon } = controls),
        onServerLog: (text) => void process.stderr.write(text),
        onLogLevel: (level) => {
          minimum = level;
        },
      },
      stop.signal,
    );
    log.log('node is shut down');
    return 0;
  } catch (error) {
    log.fatal(error);
    if (error instanceof Error && error.name !== 'WalcadeError') log.fatal(String(error.stack));
    return 1;
  }
}
