/** `walcade init`: makes a node, and says what it found and made. Ctrl-C leaves nothing behind. */
import { resolve } from 'node:path';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type InitOptions, type InitResult, initNode } from '../node/init-node.ts';
import { systemDoors } from '../node/system-doors.ts';
import { formatLsn } from '../wal/lsn.ts';
import { formatFacts, stderrLog } from './terminal.ts';

/** Makes the node that `options` describe; throws with nothing left of it. */
export async function initCommand(options: InitOptions): Promise<void> {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => {
      stop.abort(new WalcadeError(SQLSTATE.QUERY_CANCELED, `canceled by ${name}`));
    });
  }
  const log = stderrLog(() => 'warning');
  const made = await initNode({ ...systemDoors, log }, options, stop.signal);
  process.stdout.write(describeNode(made, options));
}

/** What was found and made, and what to do next. */
export function describeNode(made: InitResult, options: InitOptions): string {
  const { serverVersion, role, systemIdentifier, timeline, slot, start, name } = made;
  const facts: [string, string][] = [
    ['upstream', `${role}, PostgreSQL ${serverVersion}, timeline ${timeline}`],
    ['system', `${systemIdentifier}`],
    ['slot', slot === undefined ? 'none: nothing holds WAL for this node' : `${slot}, made there`],
    ['node', `${name} in ${resolve(options.directory)}, port ${options.port ?? '5432'}`],
    ['WAL from', formatLsn(start)],
  ];
  return `${formatFacts(facts)}\nStart it with:\n\n    walcade start -D ${options.directory}\n`;
}
