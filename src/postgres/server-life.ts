/**
 * One start of the attached server and all that follows, until its postmaster is gone.
 *
 *   starting ──▶ replaying ──▶ ready ──▶ stopping        any of them may end, or go to stopping
 *
 * starting   no redo yet, or none needed: then it goes to ready at once
 * replaying  its log said "redo starts at": not consistent yet, or no snapshot to answer by
 * ready      its postmaster.pid says so: SQL is answered, by a standby or after a promotion
 * stopping   asked to by us, or by somebody else, which its postmaster.pid tells; after a smart
 *            shutdown that may last, as clients may stay
 * Whether it leads or follows is another matter (server-role.ts), and looked at as often.
 */
import { join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { Condition } from '../base/condition.ts';
import type { Log } from '../base/log.ts';
import { Postmaster } from './postmaster.ts';
import { readPostmasterPid } from './postmaster-pid.ts';
import { ServerLogReader } from './server-log-reader.ts';
import type { ServerPrograms } from './server-programs.ts';
import { type ServerRole, isInProduction, readServerRole } from './server-role.ts';
import type { ServerUser } from './server-user.ts';
import { ServerWatcher } from './server-watcher.ts';

export type LifeState = 'starting' | 'replaying' | 'ready' | 'stopping';

export interface ServerLifeOptions {
  programs: ServerPrograms;
  dataDirectory: string;
  user: ServerUser | undefined;
  /** What goes on the command line. */
  settings: Readonly<Record<string, string>>;
  clock: Clock;
  log: Log;
  onLogLines: (text: string) => void;
  /** As the data directory has it before the start. */
  role: 'standby' | 'primary';
  /** Told when `state`, `pid`, `role` or `takesWrites` has changed. */
  onChange: () => void;
  /** Told, once at most, that replay waits for a start with higher limits. */
  onPause: () => void;
}

/** How a life ended; `words` completes "the attached PostgreSQL server …". */
export interface LifeEnd {
  words: string;
  /** What the server said last, if it tells why. */
  lastWords: string | undefined;
}

/** How often postmaster.pid is read, and where the signal files are looked for. */
const INTERVAL_MS = 50;
const READY_INTERVAL_MS = 1_000;
/** While a promotion is under way: everybody below waits for it. */
const PROMOTION_INTERVAL_MS = 20;

export class ServerLife {
  readonly #options: ServerLifeOptions;
  readonly #reader = new ServerLogReader();
  /** Has the files be looked at now. */
  readonly #lookNow = new Condition();
  #postmaster: Postmaster | undefined;
  #fileStatus = '';
  #isStopping = false;
  #isAbandoned = false;
  #isPaused = false;
  #state: LifeState = 'starting';
  #wasReady = false;
  #fileRole: 'standby' | 'primary';
  #role: ServerRole;
  #takesWrites = false;
  #isAskedToPromote = false;

  constructor(options: ServerLifeOptions) {
    this.#options = options;
    this.#fileRole = options.role;
    this.#role = options.role;
  }

  get state(): LifeState {
    return this.#state;
  }

  get pid(): number | undefined {
    return this.#postmaster?.pid;
  }

  get role(): ServerRole {
    return this.#role;
  }

  /** Whether it is ready, and a primary that has ended recovery. */
  get takesWrites(): boolean {
    return this.#takesWrites;
  }

  /** Whether we have asked it to shut down. */
  get isStopping(): boolean {
    return this.#isStopping;
  }

  get wasReady(): boolean {
    return this.#wasReady;
  }

  /**
   * Starts the server and resolves when it has ended; when `stop` aborts, asks it for a fast
   * shutdown. Rejects with a system error if nothing can be started.
   */
  async run(stop: AbortSignal): Promise<LifeEnd> {
    const { dataDirectory, user, clock, log } = this.#options;
    const watcher = await ServerWatcher.start({ dataDirectory, user, clock, log });
    try {
      this.#postmaster = this.#start(watcher);
      if (this.pid !== undefined) {
        watcher.watch(this.pid);
        log.log(`started the attached PostgreSQL server, process ID ${this.pid}`);
      }
      return await this.#live(this.#postmaster, stop);
    } finally {
      await watcher.end();
    }
  }

  /** Has the server read its configuration files again; one that starts now does so anyway. */
  reload(): void {
    if (this.#fileStatus !== '') this.#postmaster?.signal('SIGHUP');
  }

  /** Has it look for a request to promote itself; its role is looked at often from then on. */
  promote(): void {
    this.#isAskedToPromote = true;
    this.#postmaster?.signal('SIGUSR1');
    this.#lookNow.notify();
  }

  /** Its role is looked at as often as before. */
  endPromotion(): void {
    this.#isAskedToPromote = false;
  }

  /** Asks for a fast shutdown. */
  shutDown(): void {
    this.#isStopping = true;
    this.#update();
    if (!this.#isAbandoned) this.#postmaster?.signal('SIGINT');
  }

  /** Asks for an immediate shutdown. */
  abandon(): void {
    this.#isAbandoned = true;
    this.#postmaster?.signal('SIGQUIT');
  }

  #start(watcher: ServerWatcher): Postmaster {
    const { programs, dataDirectory, settings, user, clock, onLogLines } = this.#options;
    const options = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    return new Postmaster({
      program: join(programs.directory, 'postgres'),
      args: ['-D', dataDirectory, ...options],
      user,
      watcher: watcher.input,
      clock,
      onLines: (text) => {
        onLogLines(text);
        this.#reader.read(text, this.pid);
        this.#update();
        if (this.#isPromoted()) this.#lookNow.notify();
        this.#tellOfPause();
      },
    });
  }

  async #live(postmaster: Postmaster, stop: AbortSignal): Promise<LifeEnd> {
    const shutDown = (): void => this.shutDown();
    this.#options.onChange();
    if (stop.aborted) shutDown();
    stop.addEventListener('abort', shutDown, { once: true });
    const over = new AbortController();
    const following = this.#followFiles(over.signal);
    try {
      const words = await postmaster.ended;
      return { words, lastWords: this.#reader.lastWords(postmaster.pid) };
    } finally {
      stop.removeEventListener('abort', shutDown);
      over.abort();
      await following;
    }
  }

  /** Looks at the files again and again; a postmaster.pid of an earlier start does not count. */
  async #followFiles(over: AbortSignal): Promise<void> {
    const { dataDirectory, clock } = this.#options;
    while (!over.aborted) {
      const said = await readPostmasterPid(dataDirectory).catch(() => undefined);
      this.#fileStatus = said !== undefined && said.pid === this.pid ? said.status : '';
      this.#fileRole = await readServerRole(dataDirectory).catch(() => this.#fileRole);
      this.#update();
      await this.#lookForProduction();
      await this.#lookNow.waitAtMost(this.#intervalMs(), clock, over).catch(() => {});
    }
  }

  #intervalMs(): number {
    if (this.#isPromoted()) return PROMOTION_INTERVAL_MS;
    return this.#state === 'ready' ? READY_INTERVAL_MS : INTERVAL_MS;
  }

  /** Whether it is on its way from a standby to a primary that takes writes. */
  #isPromoted(): boolean {
    if (this.#state !== 'ready') return false;
    if (this.#role === 'standby') return this.#isAskedToPromote;
    return !this.#takesWrites;
  }

  async #lookForProduction(): Promise<void> {
    if (this.#takesWrites || this.#state !== 'ready' || this.#role !== 'primary') return;
    const { dataDirectory } = this.#options;
    const isSo = await isInProduction(dataDirectory).catch(() => false);
    // It may have crashed, or been asked to stop, while the file was read.
    if (!isSo || this.#state !== 'ready') return;
    this.#takesWrites = true;
    this.#options.onChange();
  }

  #update(): void {
    const state = this.#isStopping ? 'stopping' : lifeState(this.#fileStatus, this.#reader);
    const role = serverRole(this.#fileRole, this.#reader);
    if (state === this.#state && role === this.#role) return;
    this.#state = state;
    this.#role = role;
    this.#wasReady ||= state === 'ready';
    this.#takesWrites &&= state === 'ready';
    this.#options.onChange();
  }

  #tellOfPause(): void {
    if (this.#isPaused || !this.#reader.lacksLimits) return;
    this.#isPaused = true;
    this.#options.onPause();
  }
}

/** The rule: what the server's file and its log say, together. */
export function lifeState(
  fileStatus: string,
  { replays, isReinitializing }: Pick<ServerLogReader, 'replays' | 'isReinitializing'>,
): LifeState {
  if (fileStatus === 'stopping') return 'stopping';
  if (fileStatus === 'ready' && !isReinitializing) return 'ready';
  return replays ? 'replaying' : 'starting';
}

/** The rule for the role: a promotion has begun with the log's line, and is one by the files. */
export function serverRole(
  fileRole: 'standby' | 'primary',
  { isPromoting }: Pick<ServerLogReader, 'isPromoting'>,
): ServerRole {
  return fileRole === 'standby' && isPromoting ? 'promoting' : fileRole;
}
