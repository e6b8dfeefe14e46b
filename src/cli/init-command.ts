/** `walcade init`: makes a node, and says what it found and made. Ctrl-C leaves nothing behind. */
import { resolve } from 'node:path';
import { formatBytes } from '../base/format-bytes.ts';
import { type BuiltServer, type InitOptions, initNode } from '../node/init-node.ts';
import type { MadeNode } from '../node/make-node.ts';
import { systemDoors } from '../node/system-doors.ts';
import { formatLsn } from '../wal/lsn.ts';
import { showBackupProgress } from './backup-progress.ts';
import { formatFacts, interruptible, stderrLog } from './terminal.ts';

export interface InitFlags extends Omit<InitOptions, 'postgres'> {
  /** Absent for a relay. */
  postgres?: { binDirectory?: string; tablespaceMapping: Map<string, string>; keep: boolean };
}

/** Makes the node that `flags` describe; throws with nothing left of it. */
export async function initCommand({ postgres, ...flags }: InitFlags): Promise<void> {
  const bar = showBackupProgress();
  const log = stderrLog(
    () => 'warning',
    () => bar.end(),
  );
  const options: InitOptions = { ...flags };
  if (postgres !== undefined) {
    const binDirectory =
      postgres.binDirectory === undefined ? undefined : resolve(postgres.binDirectory);
    options.postgres = { ...postgres, binDirectory, onProgress: (done) => bar.update(done) };
  }
  try {
    const made = await initNode({ ...systemDoors, log }, options, interruptible());
    bar.end();
    process.stdout.write(describeNode(made, options));
  } finally {
    bar.end();
  }
}

/** What was found and made, and what to do next. */
export function describeNode(
  { name, slot, upstream, built }: MadeNode<BuiltServer>,
  { directory, port }: { directory: string; port: string | undefined },
): string {
  const { role, serverVersion, identity } = upstream;
  const facts: [string, string][] = [
    ['upstream', `${role}, PostgreSQL ${serverVersion}, timeline ${identity.timeline}`],
    ['system', `${identity.systemIdentifier}`],
    ['slot', slot === undefined ? 'none: nothing holds WAL for this node' : `${slot}, made there`],
    ['node', `${name} in ${resolve(directory)}, port ${port ?? '5432'}`],
    ['WAL from', formatLsn(built.store.start)],
    ...describeServer(built),
  ];
  return `${formatFacts(facts)}\nStart it with:\n\n    walcade start -D ${directory}\n`;
}

function describeServer({ server, programs, backupBytes }: BuiltServer): [string, string][] {
  if (server === undefined || programs === undefined) return [];
  const size = backupBytes === undefined ? '' : ` (${formatBytes(backupBytes)})`;
  return [
    ['data', `${server.dataDirectory}${size}`],
    ['server', `PostgreSQL ${programs.version} in ${programs.directory}`],
    // As initdb warns of it: there is no other method yet.
    ['trust', 'everybody on this machine, as any role: see walcade_hba.conf'],
  ];
}
