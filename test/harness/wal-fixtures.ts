/** WAL of real servers, from test/fixtures/wal: see the README there for how it was captured. */
import { readFileSync, readdirSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { parseLsn, type Lsn } from '../../src/wal/lsn.ts';

export interface WalFixture {
  /** `13` … `18`, `16-aborted`. */
  readonly name: string;
  readonly major: number;
  /** Whole segments, one after the other. */
  readonly wal: Buffer;
  readonly segmentBytes: number;
  readonly systemIdentifier: bigint;
  /** Where `wal` starts. */
  readonly start: Lsn;
  readonly firstRecord: Lsn;
  /** How many records there are. */
  readonly records: number;
  /** The shutdown checkpoint that is the last record, and where it ends. */
  readonly lastRecord: Lsn;
  readonly end: Lsn;
}

interface Expected {
  systemIdentifier: string;
  start: string;
  firstRecord: string;
  records: number;
  lastRecord: string;
  end: string;
}

const DIRECTORY = new URL('../fixtures/wal/', import.meta.url);

export function readWalFixtures(): WalFixture[] {
  const text = readFileSync(new URL('expected.json', DIRECTORY), 'utf8');
  const expected = JSON.parse(text) as Record<string, Expected>;
  return Object.entries(expected).map(([name, facts]) => ({
    name,
    major: Number.parseInt(name, 10),
    wal: readSegments(new URL(`${name}/`, DIRECTORY)),
    segmentBytes: 1024 * 1024,
    systemIdentifier: BigInt(facts.systemIdentifier),
    start: parseLsn(facts.start),
    firstRecord: parseLsn(facts.firstRecord),
    records: facts.records,
    lastRecord: parseLsn(facts.lastRecord),
    end: parseLsn(facts.end),
  }));
}

function readSegments(directory: URL): Buffer {
  const names = readdirSync(directory).sort();
  return Buffer.concat(names.map((name) => gunzipSync(readFileSync(new URL(name, directory)))));
}
