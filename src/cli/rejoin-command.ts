/** `walcade rejoin`: says what will be lost, asks, and makes a former primary's node a standby. */
import { resolve } from 'node:path';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { formatBytes } from '../base/format-bytes.ts';
import { type Rejoined, type RejoinOptions, rejoinNode } from '../node/rejoin-node.ts';
import type { Proposal } from '../node/rejoin-proposal.ts';
import { systemDoors } from '../node/system-doors.ts';
import type { UpstreamFacts } from '../node/upstream-facts.ts';
import { formatLsn } from '../wal/lsn.ts';
import { showBackupProgress } from './backup-progress.ts';
import { confirm, formatFacts, interruptible, stderrLog } from './terminal.ts';

export type RejoinFlags = Omit<RejoinOptions, 'confirm' | 'onProgress'> & { yes: boolean };

/** Resolves to the exit status: 1 when the answer was no. */
export async function rejoinCommand({ yes, ...flags }: RejoinFlags): Promise<number> {
  const bar = showBackupProgress();
  const log = stderrLog(
    () => 'warning',
    () => bar.end(),
  );
  const { binDirectory } = flags;
  const options: RejoinOptions = {
    ...flags,
    binDirectory: binDirectory === undefined ? undefined : resolve(binDirectory),
    confirm: (proposal, upstream) => agree(describeProposal(proposal, upstream), { yes }),
    onProgress: (done) => bar.update(done),
  };
  try {
    const rejoined = await rejoinNode({ ...systemDoors, log }, options, interruptible());
    bar.end();
    if (rejoined === undefined) {
      process.stderr.write('nothing was changed\n');
      return 1;
    }
    process.stdout.write(describeRejoined(rejoined, flags.directory));
    return 0;
  } finally {
    bar.end();
  }
}

/** Shows what is to be done; throws 55000 where nobody can be asked. */
async function agree(
  facts: readonly (readonly [string, string])[],
  { yes }: { yes: boolean },
): Promise<boolean> {
  process.stderr.write(formatFacts(facts));
  if (yes) return true;
  if (process.stdin.isTTY) return confirm('This will replace the data directory. Go on?');
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'cannot ask whether to replace the data directory, as standard input is not a terminal',
    { detail: 'Nothing was changed.', hint: 'Use --yes to go on without a question.' },
  );
}

/** What was found, what will be lost, and how the data come back. */
export function describeProposal(proposal: Proposal, upstream: UpstreamFacts): [string, string][] {
  const facts: [string, string][] = [['upstream', describeUpstream(upstream)]];
  if (proposal.method === 'as it is') return facts;
  const { loss, reason, method } = proposal;
  const noRewind = method === 'base backup' ? proposal.noRewind : undefined;
  if (loss !== undefined) {
    facts.push(['lost', loss.wal], ['', `transactions committed in it: ${loss.transactions}`]);
  }
  facts.push(['why', reason], ['how', METHODS[method]]);
  if (noRewind !== undefined) facts.push(['', `no pg_rewind: ${noRewind}`]);
  return facts;
}

const METHODS: Record<Exclude<Proposal['method'], 'as it is'>, string> = {
  pg_rewind: 'pg_rewind takes the data directory back; if it cannot, a base backup replaces it',
  'base backup':
    'a base backup of the upstream replaces the data directory, with room for both until then',
};

/** What was done, and what to do next. */
export function describeRejoined(
  { node, upstream, method, store, backupBytes = 0, left }: Rejoined,
  directory: string,
): string {
  const data = {
    'as it is': 'nothing lost: it goes on as it is, as a standby',
    pg_rewind: 'taken back by pg_rewind',
    'base backup': `replaced by a base backup of ${formatBytes(backupBytes)}`,
  }[method];
  const facts: [string, string][] = [
    ['upstream', describeUpstream(upstream)],
    ['slot', node.slot ?? 'none: nothing holds WAL for this node'],
    ['node', `${node.config.clusterName} in ${resolve(directory)}`],
    ['data', data],
    [
      'WAL',
      store.kind === 'is kept'
        ? 'goes on from the fork'
        : `begins anew at ${formatLsn(store.start)}`,
    ],
    ...left.map((path): [string, string] => ['left', `${path}: a tablespace of the old data`]),
  ];
  return `${formatFacts(facts)}\nStart it with:\n\n    walcade start -D ${directory}\n`;
}

function describeUpstream({ role, serverVersion, identity }: UpstreamFacts): string {
  return `${role}, PostgreSQL ${serverVersion}, timeline ${identity.timeline}`;
}
