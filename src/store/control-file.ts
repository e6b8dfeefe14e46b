/**
 * What a node knows of itself across restarts: whose WAL it keeps, and from where a start has to
 * walk it.
 *
 * The file holds two copies, written in turn, each with a sequence number and a checksum: a torn
 * write leaves the other one. It is rewritten at each segment's end, about once a second while WAL
 * arrives, and at shutdown; so `flushed` is a lower bound of what was reported.
 */
import * as v from 'valibot';
import { assert } from '../base/assert.ts';
import { type Disk, type DiskFile, readWholeFile } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { Serial } from '../base/serial.ts';
import { crc32c } from '../wal/crc32c.ts';
import { type Lsn, type TimelineId, formatLsn, parseLsn, timelineId } from '../wal/lsn.ts';
import { CONTROL_FILE } from './control-file-name.ts';
import { diskRefusal } from './disk-refusal.ts';

const COPY_BYTES = 8192;
const HEADER_BYTES = 16;
const MAGIC = Buffer.from('WALCADE1');

const lsnText = v.pipe(v.string(), v.transform(parseLsn));

const controlSchema = v.object({
  /** This node's own identity: no two nodes share it, so loops are seen by it. */
  nodeId: v.string(),
  systemIdentifier: v.pipe(
    v.string(),
    v.regex(/^[0-9]+$/),
    v.transform((text) => BigInt(text)),
  ),
  segmentBytes: v.number(),
  /** Settings of the upstream that downstreams ask for; kept for when it cannot be reached. */
  upstreamSettings: v.record(v.string(), v.string()),
  timeline: v.pipe(v.number(), v.transform(timelineId)),
  /** Where a start begins to walk: a segment's start, or the start of a proven record. */
  walk: v.object({ from: lsnText, startsAt: v.picklist(['segment', 'record']) }),
  /** All WAL before this is durable. */
  flushed: lsnText,
  /** Redo pointer of the newest checkpoint record seen. */
  checkpointRedo: v.optional(lsnText),
  cleanShutdown: v.boolean(),
  /** Where the node was when it last started, by which a copy of it is known. */
  place: v.optional(
    v.object({
      name: v.string(),
      primarySlotName: v.optional(v.string()),
      directory: v.string(),
      dataDirectory: v.optional(v.string()),
      tablespaces: v.record(v.string(), v.string()),
    }),
  ),
});

export interface ControlData {
  nodeId: string;
  systemIdentifier: bigint;
  segmentBytes: number;
  upstreamSettings: Record<string, string>;
  timeline: TimelineId;
  walk: { from: Lsn; startsAt: 'segment' | 'record' };
  flushed: Lsn;
  checkpointRedo?: Lsn | undefined;
  cleanShutdown: boolean;
  place?: NodePlace | undefined;
}

/** By what a node that was moved, renamed or copied is told from one that stayed. */
export interface NodePlace {
  /** cluster_name. */
  name: string;
  /** Empty without a slot; absent where an earlier version noted the place. */
  primarySlotName?: string | undefined;
  /** The file system's identity of the node's directory. */
  directory: string;
  /** The same of the attached server's data directory, if it has one. */
  dataDirectory?: string | undefined;
  /** The same of each tablespace directory, by OID. */
  tablespaces: Record<string, string>;
}

/** What changes, given what there is when its turn comes. */
export type ControlChange = (data: Readonly<ControlData>) => Partial<ControlData>;

export class ControlFile {
  readonly #file: DiskFile;
  readonly #writes = new Serial();
  #data: ControlData;
  #sequence: number;

  private constructor(file: DiskFile, data: ControlData, sequence: number) {
    this.#file = file;
    this.#data = data;
    this.#sequence = sequence;
  }

  get data(): Readonly<ControlData> {
    return this.#data;
  }

  /** Makes the file in `directory`; it must not be there. */
  static async create(disk: Disk, directory: string, data: ControlData): Promise<void> {
    const file = await disk.open(`${directory}/${CONTROL_FILE}`, 'create');
    try {
      await file.write([encodeCopy(data, 1), Buffer.alloc(COPY_BYTES)], 0);
      await file.sync();
    } finally {
      await file.close();
    }
    await disk.syncDirectory(directory);
  }

  /** Opens the file in `directory`; throws when it is missing or neither copy is whole. */
  static async open(disk: Disk, directory: string): Promise<ControlFile> {
    const path = `${directory}/${CONTROL_FILE}`;
    const newest = newestCopy(await readWholeFile(disk, path), path);
    return new ControlFile(await disk.open(path, 'write'), newest.data, newest.sequence);
  }

  /**
   * Writes `changes` durably; as a function it is given what all updates before it have left.
   * Throws what the disk answers, FsyncFailed included.
   */
  update(changes: Partial<ControlData> | ControlChange): Promise<void> {
    const change = typeof changes === 'function' ? changes : () => changes;
    return this.#writes.run(() => this.#updateNow(change));
  }

  async #updateNow(change: ControlChange): Promise<void> {
    const data = { ...this.#data, ...change(this.#data) };
    const sequence = this.#sequence + 1;
    const copy = encodeCopy(data, sequence);
    try {
      await this.#file.write([copy], (1 - (sequence % 2)) * COPY_BYTES);
    } catch (error) {
      throw diskRefusal(error, 'write', `file "${CONTROL_FILE}"`);
    }
    try {
      await this.#file.sync();
    } catch (error) {
      throw diskRefusal(error, 'fsync', `file "${CONTROL_FILE}"`);
    }
    this.#data = data;
    this.#sequence = sequence;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** The control data of a node that may be running or stopped. */
export async function readControlData(disk: Disk, directory: string): Promise<ControlData> {
  const path = `${directory}/${CONTROL_FILE}`;
  return newestCopy(await readWholeFile(disk, path), path).data;
}

function newestCopy(content: Buffer, path: string): { data: ControlData; sequence: number } {
  const copies = [0, COPY_BYTES]
    .map((at) => decodeCopy(content.subarray(at, at + COPY_BYTES)))
    .filter((copy) => copy !== undefined)
    .sort((a, b) => b.sequence - a.sequence);
  const newest = copies[0];
  if (newest !== undefined) return newest;
  throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, `control file "${path}" is corrupted`, {
    detail: 'Neither of its two copies has a correct checksum.',
    hint: 'Make the node anew with "walcade init".',
  });
}

function encodeCopy(data: ControlData, sequence: number): Buffer {
  const text = JSON.stringify({
    ...data,
    sequence,
    systemIdentifier: data.systemIdentifier.toString(),
    walk: { from: formatLsn(data.walk.from), startsAt: data.walk.startsAt },
    flushed: formatLsn(data.flushed),
    checkpointRedo: data.checkpointRedo && formatLsn(data.checkpointRedo),
  });
  const body = Buffer.from(text);
  assert(body.length <= COPY_BYTES - HEADER_BYTES, 'control data fits its copy');
  const copy = Buffer.alloc(COPY_BYTES);
  MAGIC.copy(copy);
  copy.writeUInt32LE(body.length, 8);
  copy.writeUInt32LE(crc32c(body), 12);
  body.copy(copy, HEADER_BYTES);
  return copy;
}

const copySchema = v.intersect([controlSchema, v.object({ sequence: v.number() })]);

/** The control data of one copy; undefined when it was never written or not written whole. */
function decodeCopy(copy: Buffer): { data: ControlData; sequence: number } | undefined {
  if (copy.length < HEADER_BYTES || !copy.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const length = copy.readUInt32LE(8);
  if (length > copy.length - HEADER_BYTES) return undefined;
  const body = copy.subarray(HEADER_BYTES, HEADER_BYTES + length);
  if (crc32c(body) !== copy.readUInt32LE(12)) return undefined;
  const parsed = v.safeParse(copySchema, JSON.parse(body.toString()));
  if (!parsed.success) return undefined;
  const { sequence, ...data } = parsed.output;
  return { data, sequence };
}
