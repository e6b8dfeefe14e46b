/**
 * Many downstreams that throw WAL away, in a reader process of their own (reader.ts). They stay
 * connected until `end`, so that the senders can be measured.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { formatLsn } from '../src/wal/lsn.ts';
import type { WalRange } from './servers.ts';

const PROGRAM = fileURLToPath(new URL('reader.ts', import.meta.url));

/** What a reader process says of itself once all its connections have the whole range. */
export interface ReaderReport {
  /** From the first connection to the last byte. */
  readonly seconds: number;
  /** CPU seconds of the reader process in that time. */
  readonly cpuSeconds: number;
}

export interface Readers extends ReaderReport {
  /** Closes the connections. */
  end(): Promise<void>;
}

/**
 * Connects `count` readers and waits until each of them has received the range; an empty range is
 * received as soon as the stream has begun.
 */
export async function startReaders(
  port: number,
  count: number,
  { start, end }: Pick<WalRange, 'start' | 'end'>,
): Promise<Readers> {
  const args = [PROGRAM, `${port}`, `${count}`, formatLsn(start), formatLsn(end)];
  const child = spawn(process.execPath, ['--import', 'tsx', ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const report = await reportOf(child);
  return {
    ...report,
    async end() {
      const exited = once(child, 'exit');
      child.stdin.end();
      await exited;
    },
  };
}

async function reportOf(child: ChildProcess): Promise<ReaderReport> {
  if (child.stdout === null) throw new Error('the standard output of the readers is a pipe');
  const said = await Promise.race([once(child.stdout, 'data'), once(child, 'exit')]);
  const [text] = said as [unknown];
  if (!Buffer.isBuffer(text)) throw new Error(`the readers ended with ${String(text)}`);
  return JSON.parse(text.toString()) as ReaderReport;
}
