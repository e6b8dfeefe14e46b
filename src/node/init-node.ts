/**
 * Makes a node: looks at the upstream, reserves WAL there, and writes the node's directory.
 *
 * Either all of it is done or nothing is left: not the directory, not the slot.
 */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { type Disk, writeFileDurably } from '../base/disk.ts';
import {
  SQLSTATE,
  WalcadeError,
  asWalcadeError,
  describeSystemError,
  systemErrorCode,
} from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { CONF_FILE_NAME } from '../config/conf-file.ts';
import { configTemplate, hbaTemplate } from '../config/config-template.ts';
import { checkSupported, parseConninfo } from '../config/conninfo.ts';
import { HBA_FILE_NAME } from '../config/hba.ts';
import { type ReplicationClient, singleValue } from '../protocol/client.ts';
import type { Network } from '../protocol/network.ts';
import {
  checkSlotName,
  formatCreateSlot,
  formatDropSlot,
  formatReadSlot,
} from '../protocol/replication-command.ts';
import {
  type UpstreamIdentity,
  identifySystem,
  readUpstreamPath,
  readUpstreamSettings,
} from '../receiver/upstream-identity.ts';
import { ControlFile } from '../store/control-file.ts';
import { WAL_DIRECTORY } from '../store/wal-store.ts';
import { parseHistoryFile } from '../wal/history.ts';
import { type Lsn, formatLsn, parseLsn } from '../wal/lsn.ts';
import { parseSegmentBytes, segmentStart } from '../wal/segment.ts';
import { SLOT_DIRECTORY } from './node-directory.ts';
import { connectUpstream } from './upstream-connector.ts';

export interface InitOptions {
  directory: string;
  upstream: string;
  name: string | undefined;
  port: string | undefined;
  listenAddresses: string | undefined;
  /** undefined: the node's name; false: no slot. */
  slot: string | false | undefined;
  startLsn: Lsn | undefined;
}

export interface InitResult {
  name: string;
  serverVersion: string;
  role: 'primary' | 'standby' | 'walcade node';
  systemIdentifier: bigint;
  timeline: number;
  slot: string | undefined;
  start: Lsn;
}

export interface InitDoors {
  disk: Disk;
  network: Network;
  clock: Clock;
  log: Log;
}

const SOCKET_DIRECTORIES = ['/tmp', '/var/run/postgresql'];
const READ_SLOT_SINCE = 150_000;

/** Makes a node in `options.directory`; throws what is wrong with the arguments or the upstream. */
export async function initNode(
  doors: InitDoors,
  options: InitOptions,
  signal: AbortSignal,
): Promise<InitResult> {
  const directory = resolve(options.directory);
  const name = options.name ?? basename(directory);
  const slot = options.slot === false ? undefined : (options.slot ?? slotNameOf(name));
  if (slot !== undefined) checkSlotName(slot);
  checkUpstream(options.upstream);
  const config = configTemplate({
    cluster_name: name,
    ...(options.port === undefined ? {} : { port: options.port }),
    ...(options.listenAddresses === undefined ? {} : { listen_addresses: options.listenAddresses }),
    unix_socket_directories: (await writableDirectories(SOCKET_DIRECTORIES)).join(', '),
    primary_conninfo: options.upstream,
    primary_slot_name: slot ?? '',
  });
  const isMade = await makeEmptyDirectory(directory);
  const undo: (() => Promise<unknown>)[] = [() => emptyDirectory(directory, isMade)];
  const target = { text: options.upstream, applicationName: name };
  try {
    const client = await connectUpstream(doors, target, signal);
    undo.push(() => client.close());
    const upstream = await lookAt(client);
    signal.throwIfAborted();
    if (slot !== undefined) {
      await createSlot(client, slot, upstream.versionNum);
      undo.push(() => client.query(formatDropSlot(slot)));
    }
    const start = await chooseStart(client, { ...upstream, slot, asked: options.startLsn });
    signal.throwIfAborted();
    await writeNode(doors.disk, { directory, config, upstream, start });
    await client.close();
    const { serverVersion, role, identity } = upstream;
    const { systemIdentifier, timeline } = identity;
    return { name, serverVersion, role, systemIdentifier, timeline, slot, start };
  } catch (error) {
    for (const action of undo.toReversed()) await action().catch(() => {});
    throw error;
  }
}

/** Throws unless `text` is a connection string that can be used, saying how one looks. */
function checkUpstream(text: string): void {
  try {
    checkSupported(parseConninfo(text));
  } catch (error) {
    const { sqlstate, message, detail, hint } = asWalcadeError(error);
    throw new WalcadeError(sqlstate, `invalid upstream: ${message}`, {
      detail,
      hint: hint ?? 'Write it as libpq does: "host=db1.example port=5432 user=replicator".',
      cause: error,
    });
  }
}

/** A directory's name may hold what a slot's name may not. */
function slotNameOf(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9_]/g, '_');
}

interface UpstreamFacts {
  identity: UpstreamIdentity;
  settings: Record<string, string>;
  serverVersion: string;
  versionNum: number;
  segmentBytes: number;
  role: InitResult['role'];
}

async function lookAt(client: ReplicationClient): Promise<UpstreamFacts> {
  const identity = await identifySystem(client);
  const settings = await readUpstreamSettings(client);
  const path = await readUpstreamPath(client);
  const walLevel = settings['wal_level'] ?? '';
  if (walLevel === 'minimal') {
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      'WAL of the upstream has wal_level=minimal, which cannot be replicated',
      { hint: 'Set wal_level to "replica" on the primary and restart it.' },
    );
  }
  const isStandby = client.parameters.get('in_hot_standby') === 'on';
  const standbyOrPrimary = isStandby ? 'standby' : 'primary';
  return {
    identity,
    settings,
    serverVersion: settings['server_version'] ?? '',
    versionNum: Number(settings['server_version_num'] ?? 0),
    segmentBytes: parseSegmentBytes(settings['wal_segment_size'] ?? ''),
    role: path.length > 0 ? 'walcade node' : standbyOrPrimary,
  };
}

async function createSlot(
  client: ReplicationClient,
  slot: string,
  serverVersionNum: number,
): Promise<void> {
  const command = formatCreateSlot(slot, { temporary: false, reserveWal: true, serverVersionNum });
  try {
    await client.query(command);
  } catch (error) {
    if (!(error instanceof WalcadeError) || error.sqlstate !== SQLSTATE.DUPLICATE_OBJECT) {
      throw error;
    }
    throw new WalcadeError(error.sqlstate, `${error.message} on the upstream`, {
      hint: 'Choose another name with --slot, or drop that slot if nobody needs it.',
      cause: error,
    });
  }
}

/**
 * Where the store begins: as asked, or where the slot has reserved WAL, or now; a segment's start,
 * and not before the segment in which the upstream's timeline began.
 */
async function chooseStart(
  client: ReplicationClient,
  {
    identity: { timeline, walEnd },
    segmentBytes,
    versionNum,
    slot,
    asked,
  }: UpstreamFacts & { slot: string | undefined; asked: Lsn | undefined },
): Promise<Lsn> {
  let start = asked ?? walEnd;
  if (asked === undefined && slot !== undefined && versionNum >= READ_SLOT_SINCE) {
    const restart = singleValue(await client.query(formatReadSlot(slot)), 1);
    if (restart !== undefined) start = parseLsn(restart);
  }
  // Only what was asked for can be ahead: a slot may have been made later than `walEnd` was read.
  if (asked !== undefined && asked > walEnd) {
    throw new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `requested starting point ${formatLsn(asked)} is ahead of the WAL flush position ` +
        `of the upstream ${formatLsn(walEnd)}`,
      { hint: 'Leave out --start-lsn to begin where the upstream is now.' },
    );
  }
  start = segmentStart(start, segmentBytes);
  if (timeline === 1) return start;
  const content = (await client.query(`TIMELINE_HISTORY ${timeline}`))[0]?.rows[0]?.[1];
  const history = content ? parseHistoryFile(timeline, content) : undefined;
  const began = history?.entries.at(-1)?.switchPoint;
  if (began === undefined || start >= segmentStart(began, segmentBytes)) return start;
  if (asked === undefined) return segmentStart(began, segmentBytes);
  throw new WalcadeError(
    SQLSTATE.INVALID_PARAMETER_VALUE,
    `requested starting point ${formatLsn(asked)} is before the start of timeline ${timeline}`,
    { detail: `Timeline ${timeline} began at ${formatLsn(began)}.` },
  );
}

async function writeNode(
  disk: Disk,
  {
    directory,
    config,
    upstream,
    start,
  }: { directory: string; config: string; upstream: UpstreamFacts; start: Lsn },
): Promise<void> {
  await disk.makeDirectory(join(directory, WAL_DIRECTORY));
  await disk.makeDirectory(join(directory, SLOT_DIRECTORY));
  await writeFileDurably(disk, join(directory, CONF_FILE_NAME), Buffer.from(config));
  await writeFileDurably(disk, join(directory, HBA_FILE_NAME), Buffer.from(hbaTemplate()));
  const { identity, segmentBytes, settings } = upstream;
  // The control file comes last: a directory with one is a node.
  await ControlFile.create(disk, directory, {
    nodeId: randomUUID(),
    systemIdentifier: identity.systemIdentifier,
    segmentBytes,
    upstreamSettings: settings,
    timeline: identity.timeline,
    walk: { from: start, startsAt: 'segment' },
    flushed: start,
    cleanShutdown: true,
  });
}

async function writableDirectories(candidates: readonly string[]): Promise<string[]> {
  const writable: string[] = [];
  for (const directory of candidates) {
    const isWritable = await fs.access(directory, fs.constants.W_OK).then(
      () => true,
      () => false,
    );
    if (isWritable) writable.push(directory);
  }
  return writable;
}

/** Makes the directory, or takes one that is there and empty; returns whether it was made. */
async function makeEmptyDirectory(directory: string): Promise<boolean> {
  try {
    await fs.mkdir(directory, { mode: 0o700 });
    return true;
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') {
      throw new WalcadeError(
        SQLSTATE.IO_ERROR,
        `could not create directory "${directory}": ${describeSystemError(error)}`,
        { hint: 'The directory above it must exist, and be yours to write into.' },
      );
    }
  }
  const names = await fs.readdir(directory);
  if (names.length === 0) return false;
  throw new WalcadeError(
    SQLSTATE.DUPLICATE_FILE,
    `directory "${directory}" exists but is not empty`,
    { hint: 'Empty it, or choose another directory with -D.' },
  );
}

async function emptyDirectory(directory: string, isMade: boolean): Promise<void> {
  for (const name of await fs.readdir(directory)) {
    await fs.rm(join(directory, name), { recursive: true, force: true });
  }
  if (isMade) await fs.rmdir(directory);
}
