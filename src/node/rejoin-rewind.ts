/**
 * A data directory taken back to the fork by pg_rewind, where that can be done: found out as far as
 * nothing has to be changed for it, then by pg_rewind itself, which looks before it changes
 * anything. Where it cannot, that is an answer and no error: there is the base backup.
 */
import { execFile } from 'node:child_process';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { fileAccessError } from '../base/file-access-error.ts';
import { hasRewind, recoverFromCrash, runRewind } from '../postgres/pg-rewind.ts';
import { type ReplicationClient, singleValue } from '../protocol/client.ts';
import type { MakingDoors } from './make-node.ts';
import type { StoppedData } from './rejoin-data.ts';
import type { LostWal } from './rejoin-plan.ts';
import type { NewUpstream } from './rejoin-upstream.ts';
import type { StoppedNode } from './stopped-node.ts';
import { libpqAccess } from './upstream-connector.ts';

const run = promisify(execFile);

export interface RewindParts {
  readonly node: StoppedNode;
  readonly data: StoppedData;
  readonly upstream: NewUpstream;
  /** The upstream's conninfo. */
  readonly text: string;
  /** A new connection to the upstream, for SQL. */
  readonly connectForSql: () => Promise<ReplicationClient>;
  readonly signal: AbortSignal;
}

/** Why pg_rewind need not be tried, a sentence; undefined if it may be possible. */
export async function whyNotRewind(parts: RewindParts): Promise<string | undefined> {
  const { node, data, upstream, connectForSql, signal } = parts;
  const { control, own } = data;
  if (!(await hasRewind(node))) return `There is no pg_rewind in "${node.programs.directory}".`;
  if (!control.walLogHints && control.dataChecksums === false) {
    return 'It needs data checksums or wal_log_hints, and both are off here.';
  }
  if (own.end === undefined) return 'The WAL since the last checkpoint is not all there.';
  if (!own.isPrimary && !ENDED_IN_PEACE.includes(control.state)) {
    return 'The standby was not shut down.';
  }
  try {
    const client = await connectForSql();
    try {
      await checkSource(client, upstream);
      return undefined;
    } finally {
      await client.close();
    }
  } catch (error) {
    signal.throwIfAborted();
    return `The upstream cannot be asked SQL: ${asWalcadeError(error).message}.`;
  }
}

/**
 * Takes the data back. Resolves to why that cannot be done, a sentence, with nothing changed but
 * that a server that had crashed has recovered; else to undefined. `onBegin` is called before
 * anything is changed; throws what then goes wrong, after which the data are of no use.
 */
export async function rewindData(
  { log }: MakingDoors,
  parts: RewindParts,
  { loss, onBegin }: { loss: LostWal; onBegin: () => Promise<void> },
): Promise<string | undefined> {
  const { node, data, text, signal } = parts;
  const { conninfo: source, password } = await libpqAccess(text, log);
  const options = { source, password, signal };
  try {
    if (!ENDED_IN_PEACE.includes(data.control.state)) await recoverFromCrash(node, signal);
    await bringWal(node, data, loss);
    await checkpointSource(parts);
    await runRewind(node, { ...options, dryRun: true });
  } catch (error) {
    signal.throwIfAborted();
    const { message, detail } = asWalcadeError(error);
    return [`${message}.`, detail].filter((line) => line !== undefined).join('\n');
  }
  await onBegin();
  await runRewind(node, { ...options, dryRun: false });
  return undefined;
}

const ENDED_IN_PEACE: readonly string[] = ['shut down', 'shut down in recovery'];

/** Nothing is left of a copy that fails: no server would ever remove it. */
const COPY =
  'cp -- "$1" "$2.walcade" && mv -- "$2.walcade" "$2" || { rm -f -- "$2.walcade"; exit 1; }';

/** It reads from the last checkpoint before the fork on, from the data directory's pg_wal only. */
async function bringWal(
  { dataDirectory, user }: StoppedNode,
  { wal }: StoppedData,
  { from, to }: LostWal,
): Promise<void> {
  const begin = await wal.checkpointBefore(from);
  if (begin === undefined || to === undefined) {
    throw new WalcadeError(SQLSTATE.UNDEFINED_FILE, 'the last checkpoint before the fork is gone');
  }
  for (const path of await wal.outsideOfFirst(begin, to)) {
    const target = join(dataDirectory, 'pg_wal', basename(path));
    try {
      // As him whose directory it is: he could have put a link there.
      await run('/bin/sh', ['-c', COPY, 'walcade-wal', path, target], { cwd: '/', ...user });
    } catch (error) {
      throw fileAccessError(error, 'copy WAL to', target);
    }
  }
}

/** Until 15 pg_rewind goes by the timeline of the source's last checkpoint. */
const CHECKPOINT_NEEDED_MAJOR_MAX = 15;

async function checkpointSource({ node, upstream, connectForSql }: RewindParts): Promise<void> {
  if (node.major > CHECKPOINT_NEEDED_MAJOR_MAX) return;
  const { timeline } = upstream.facts.identity;
  const client = await connectForSql();
  try {
    await client.query('CHECKPOINT');
    const sql = 'SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()';
    const found = singleValue(await client.query(sql), 0);
    if (found === String(timeline)) return;
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      `the last checkpoint of the upstream is on timeline ${found}, not ${timeline}`,
    );
  } finally {
    await client.close();
  }
}

/** A node's port leads to its server, of the same cluster. */
async function checkSource(client: ReplicationClient, { facts }: NewUpstream): Promise<void> {
  const sql = 'SELECT system_identifier FROM pg_catalog.pg_control_system()';
  const identifier = singleValue(await client.query(sql), 0);
  if (identifier === String(facts.identity.systemIdentifier)) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `its server has the system identifier ${identifier}`,
  );
}
