/**
 * The log file of a server under test, read by the test while the server writes it.
 */
import { readFile } from 'node:fs/promises';
import { ifThere } from '../../src/base/file-access-error.ts';
import { type WaitOptions, waitFor } from './wait.ts';

/** A place in a log: what is written later is after it. */
export type LogMark = number;

export class ServerLog {
  readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  /** All that the server has written so far; empty if it never started. */
  async text(): Promise<string> {
    return (await this.#bytes()).toString('utf8');
  }

  async mark(): Promise<LogMark> {
    return (await this.#bytes()).length;
  }

  async since(mark: LogMark): Promise<string> {
    return (await this.#bytes()).subarray(mark).toString('utf8');
  }

  /** Resolves to the match, once what was written after `since` has one. */
  async waitFor(
    pattern: RegExp,
    { since = 0, ...options }: WaitOptions & { since?: LogMark } = {},
  ): Promise<RegExpExecArray> {
    return waitFor(
      `${pattern} in ${this.file}`,
      async () => new RegExp(pattern, pattern.flags.replace('g', '')).exec(await this.since(since)),
      options,
    );
  }

  /** The last `lines` lines. */
  async tail(lines: number): Promise<string> {
    return (await this.text()).trimEnd().split('\n').slice(-lines).join('\n');
  }

  async #bytes(): Promise<Buffer> {
    return (await ifThere(readFile(this.file))) ?? Buffer.alloc(0);
  }
}
