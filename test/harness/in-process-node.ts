/**
 * A node that runs within the test's own process, on a disk and a network of the test's: for what
 * no process shows, as power cuts and failing or hanging disks.
 *
 * It lives in a TestDirectory, which ends it with the test; each `start` is a life of its own.
 * What is logged after a power cut nobody has logged. Configuration, lock and sockets are files.
 */
import { systemClock } from '../../src/base/clock.ts';
import { createLog, formatLogEntry, type LogEntry } from '../../src/base/log.ts';
import { runNode } from '../../src/node/node.ts';
import { type Network, systemNetwork } from '../../src/protocol/network.ts';
import type { TestDisk } from './test-disk.ts';
import type { Member, TestDirectory } from './test-directory.ts';
import { waitFor } from './wait.ts';

const GRAVE = new Set(['warning', 'error', 'fatal', 'panic']);

export interface InProcessOptions {
  disk: TestDisk;
  network?: Network;
}

export class InProcessNode implements Member {
  readonly name = 'node in this process';
  readonly #directory: string;
  readonly #entries: LogEntry[] = [];
  readonly #expected: RegExp[] = [];
  #life: { disk: TestDisk; stop: AbortController; ended: Promise<{ error?: unknown }> } | undefined;

  constructor(tree: TestDirectory, directory: string) {
    this.#directory = directory;
    tree.add(this);
  }

  /** Runs the node in its directory and waits until it serves. */
  async start({ disk, network = systemNetwork }: InProcessOptions): Promise<void> {
    const stop = new AbortController();
    const write = (entry: LogEntry): void => {
      if (!disk.isCut) this.#entries.push(entry);
    };
    const log = createLog(write, { minimum: () => 'log' });
    let isReady = false;
    const onReady = (): void => {
      isReady = true;
    };
    const doors = { disk, network, clock: systemClock, log };
    const running = runNode({ directory: this.#directory, ...doors, onReady }, stop.signal);
    let failure: { error: unknown } | undefined;
    const ended = running.then(
      () => ({}),
      (error: unknown) => (failure = { error }),
    );
    this.#life = { disk, stop, ended };
    await waitFor('the node to be ready', () => {
      if (failure !== undefined) throw failure.error;
      return isReady;
    });
  }

  /** Stops the node in peace; rejects with what it ended with. */
  async stop(): Promise<void> {
    this.#life?.stop.abort(new Error('the test stops the node'));
    await this.waitForEnd();
  }

  /** Resolves when the node has ended; rejects with why, if it did so by itself. */
  async waitForEnd(): Promise<void> {
    const outcome = await this.#life?.ended;
    this.#life = undefined;
    if (outcome !== undefined && 'error' in outcome) throw outcome.error;
  }

  /** Takes the power from the node's disk, and then the node, which can save nothing any more. */
  async cutPower(): Promise<void> {
    this.#life?.disk.cutPower();
    await this.stop().catch(() => {});
  }

  async end(): Promise<void> {
    await this.stop().catch(() => {});
  }

  /** A place in the log: what is logged later is after it. */
  mark(): number {
    return this.#entries.length;
  }

  /** The entries since `mark` whose message matches `pattern`. */
  entries(pattern: RegExp, mark = 0): LogEntry[] {
    return this.#entries.slice(mark).filter(({ message }) => pattern.test(message));
  }

  /** Resolves to the first entry since `mark` whose message matches. */
  async waitForLog(pattern: RegExp, mark = 0): Promise<LogEntry> {
    return waitFor(`${pattern} in the log of ${this.name}`, () => this.entries(pattern, mark)[0]);
  }

  /** Announces entries of WARNING and above that match `pattern`, so that they are no complaint. */
  expectLog(pattern: RegExp): void {
    this.#expected.push(pattern);
  }

  complaints(): Promise<string[]> {
    const unannounced = this.#entries.filter(
      ({ level, message }) =>
        GRAVE.has(level) && !this.#expected.some((pattern) => pattern.test(message)),
    );
    const texts = unannounced.map((entry) =>
      formatLogEntry(entry, { clock: systemClock, processId: process.pid }),
    );
    return Promise.resolve(texts.map((text) => `${this.name} logged, unannounced: ${text}`));
  }
}
