/**
 * backup_manifest (manual, "Backup Manifest Format"): read as a stream of lines, of which each is
 * compared with what was received, since it may be as long as the cluster has files.
 *
 * It lives for one backup. Its lines are those that PostgreSQL writes: the checksum at its end,
 * which covers every byte before its own line, is over lines too (parse_manifest.c,
 * verify_manifest_checksum()).
 */
import { createHash } from 'node:crypto';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

/** What has come of one file. */
export interface ReceivedFile {
  readonly bytes: number;
  /** CRC-32C, unsigned. */
  readonly crc: number;
}

/** Paths are relative to the data directory; each character stands for one byte. */
export type ReceivedFiles = Map<string, ReceivedFile>;

const LINE_BYTES_MAX = 64 * 1024;
const DIFFERENCES_SHOWN_MAX = 5;
const SHOWN_CHARACTERS_MAX = 80;

const LINE_FEED = 0x0a;
const VERSION = /^\{ "PostgreSQL-Backup-Manifest-Version": (\d+),$/;
const SYSTEM_IDENTIFIER = /^"System-Identifier": (\d{1,20}),$/;
const LSN = '[0-9A-F]{1,8}/[0-9A-F]{1,8}';
const WAL_RANGE = new RegExp(
  `^\\{ "Timeline": \\d+, "Start-LSN": "${LSN}", "End-LSN": "${LSN}" \\},?$`,
);
const CHECKSUM = /^"Manifest-Checksum": "([0-9a-f]{64})"\}$/;

type Part = 'version' | 'identifier' | 'files' | 'ranges-head' | 'ranges' | 'checksum' | 'nothing';

export class ManifestComparison {
  readonly #received: ReceivedFiles;
  readonly #systemIdentifier: bigint;
  readonly #hash = createHash('sha256');
  readonly #differences: string[] = [];
  #differenceCount = 0;
  #begun: Buffer = Buffer.alloc(0);
  #lineNumber = 0;
  #part: Part = 'version';

  /** Each file that the manifest lists is taken out of `received`. */
  constructor(received: ReceivedFiles, systemIdentifier: bigint) {
    this.#received = received;
    this.#systemIdentifier = systemIdentifier;
  }

  /** Takes the next bytes. Throws XX001 for what is no line of a manifest, or is not ours. */
  push(chunk: Buffer): void {
    let bytes = this.#begun.length === 0 ? chunk : Buffer.concat([this.#begun, chunk]);
    for (;;) {
      const end = bytes.indexOf(LINE_FEED);
      if (end < 0) break;
      this.#takeLine(bytes.subarray(0, end + 1));
      bytes = bytes.subarray(end + 1);
    }
    if (bytes.length > LINE_BYTES_MAX) throw this.#notAManifest(`${bytes.length} bytes long`);
    this.#begun = Buffer.from(bytes);
  }

  /** To be called when all of it was taken. Throws XX001 if it is cut, or differs. */
  end(): void {
    if (this.#part !== 'nothing' || this.#begun.length > 0) {
      throw corrupted('could not parse backup manifest: manifest ended unexpectedly', [
        `Of line ${this.#lineNumber + 1} there are ${this.#begun.length} bytes.`,
      ]);
    }
    for (const path of this.#received.keys()) {
      if (isNeverListed(path)) continue;
      this.#differs(`File "${shown(path)}" is not in the manifest.`);
    }
    if (this.#differenceCount === 0) return;
    const more = this.#differenceCount - this.#differences.length;
    const rest = more === 0 ? [] : [`${more} more files differ.`];
    throw corrupted('base backup does not match its manifest', [...this.#differences, ...rest]);
  }

  #takeLine(line: Buffer): void {
    this.#lineNumber += 1;
    if (line.length > LINE_BYTES_MAX) throw this.#notAManifest(`${line.length} bytes long`);
    if (!isPastChecksummed(this.#part)) this.#hash.update(line);
    const text = line.toString('utf8', 0, line.length - 1);
    const next = this.#read(this.#part, text);
    if (next === undefined) throw this.#notAManifest(`"${text.slice(0, SHOWN_CHARACTERS_MAX)}"`);
    this.#part = next;
  }

  /** Reads a line of `part`; gives the part that the next belongs to, undefined if it is none. */
  #read(part: Part, line: string): Part | undefined {
    switch (part) {
      case 'version':
        return this.#readVersion(VERSION.exec(line)?.[1]);
      case 'identifier':
        return this.#readIdentifier(line);
      case 'files':
        if (line === '],') return 'ranges-head';
        return this.#readFile(line) ? 'files' : undefined;
      case 'ranges-head':
        return line === '"WAL-Ranges": [' ? 'ranges' : undefined;
      case 'ranges':
        if (line === '],') return 'checksum';
        return WAL_RANGE.test(line) ? 'ranges' : undefined;
      case 'checksum':
        return this.#readChecksum(CHECKSUM.exec(line)?.[1]);
      case 'nothing':
        return undefined;
    }
  }

  #readVersion(version: string | undefined): Part | undefined {
    if (version === undefined || version === '1' || version === '2') {
      return version === undefined ? undefined : 'identifier';
    }
    throw corrupted(`unexpected manifest version ${version}`, []);
  }

  /** Version 1 has none, and begins with its files at once. */
  #readIdentifier(line: string): Part | undefined {
    if (line === '"Files": [') return 'files';
    const identifier = SYSTEM_IDENTIFIER.exec(line)?.[1];
    if (identifier === undefined) return undefined;
    if (BigInt(identifier) === this.#systemIdentifier) return 'identifier';
    throw corrupted('manifest system identifier differs from that of the server', [
      `The manifest's identifier is ${identifier}, ` +
        `the server's identifier is ${this.#systemIdentifier}.`,
    ]);
  }

  #readFile(line: string): boolean {
    const entry = parseFileEntry(line);
    if (entry === undefined) return false;
    const { path, bytes, algorithm, checksum } = entry;
    const file = this.#received.get(path);
    this.#received.delete(path);
    const name = `File "${shown(path)}"`;
    if (file === undefined) {
      this.#differs(`${name} is missing.`);
    } else if (file.bytes !== bytes) {
      this.#differs(`${name} has ${file.bytes} bytes, the manifest says ${bytes}.`);
    } else if (algorithm !== 'CRC32C' || formatCrc(file.crc) !== checksum) {
      const ours = `CRC32C ${formatCrc(file.crc)}`;
      this.#differs(`${name} has checksum ${ours}, the manifest says ${algorithm} ${checksum}.`);
    }
    return true;
  }

  #readChecksum(checksum: string | undefined): Part | undefined {
    if (checksum === undefined) return undefined;
    const ours = this.#hash.digest('hex');
    if (checksum === ours) return 'nothing';
    throw corrupted('manifest checksum mismatch', [
      `The manifest says ${checksum}, its lines make ${ours}.`,
    ]);
  }

  #differs(how: string): void {
    this.#differenceCount += 1;
    if (this.#differences.length < DIFFERENCES_SHOWN_MAX) this.#differences.push(how);
  }

  #notAManifest(what: string): WalcadeError {
    return corrupted('could not parse backup manifest', [`Line ${this.#lineNumber} is ${what}.`]);
  }
}

/** The checksum covers all lines but its own, which is the last. */
function isPastChecksummed(part: Part): boolean {
  return part === 'checksum' || part === 'nothing';
}

interface FileEntry {
  path: string;
  bytes: number;
  algorithm: string;
  checksum: string;
}

function parseFileEntry(line: string): FileEntry | undefined {
  let entry: unknown;
  try {
    entry = JSON.parse(line.endsWith(',') ? line.slice(0, -1) : line);
  } catch {
    return undefined;
  }
  if (typeof entry !== 'object' || entry === null) return undefined;
  const fields = new Map<string, unknown>(Object.entries(entry));
  const path = pathOf(fields.get('Path'), fields.get('Encoded-Path'));
  const bytes = fields.get('Size');
  const algorithm = fields.get('Checksum-Algorithm');
  const checksum = fields.get('Checksum');
  if (path === undefined || typeof bytes !== 'number') return undefined;
  if (typeof algorithm !== 'string' || typeof checksum !== 'string') return undefined;
  return { path, bytes, algorithm, checksum };
}

/** A path that is not UTF-8 is given as the hexadecimal digits of its bytes. */
function pathOf(plain: unknown, encoded: unknown): string | undefined {
  if (typeof plain === 'string' && encoded === undefined) {
    return Buffer.from(plain, 'utf8').toString('latin1');
  }
  if (typeof encoded !== 'string' || plain !== undefined) return undefined;
  return /^(?:[0-9a-f]{2})+$/i.test(encoded)
    ? Buffer.from(encoded, 'hex').toString('latin1')
    : undefined;
}

/** A checksum as manifests have it: the digits of its bytes in the order of memory. */
export function formatCrc(crc: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(crc);
  return bytes.toString('hex');
}

/** WAL is no part of a manifest, and neither is the manifest. */
function isNeverListed(path: string): boolean {
  return path.startsWith('pg_wal/') || path === 'backup_manifest';
}

function shown(path: string): string {
  return Buffer.from(path, 'latin1').toString('utf8');
}

function corrupted(message: string, details: readonly string[]): WalcadeError {
  return new WalcadeError(SQLSTATE.DATA_CORRUPTED, message, {
    detail: details.length === 0 ? undefined : details.join('\n'),
    hint: 'Take the base backup again.',
  });
}
