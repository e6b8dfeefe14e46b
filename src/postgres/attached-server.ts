/**
 * The attached PostgreSQL server: started, watched, started again whenever it ends by itself, and
 * stopped with the node. One for as long as the node runs; nothing outlives `run`, and a node that
 * is killed takes the server with it (server-watcher.ts). Where replay waits for higher limits, it
 * is stopped and started again with them.
 *
 *   down ──▶ starting, replaying, ready, stopping (server-life.ts) ──▶ down ──▶ …
 */
import { assert } from '../base/assert.ts';
import { retryDelayMs } from '../base/backoff.ts';
import type { Clock } from '../base/clock.ts';
import { Condition } from '../base/condition.ts';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { endLeftServer } from './left-server.ts';
import { withdrawPromotionRequest, writePromotionRequest } from './promotion-request.ts';
import { type LifeEnd, ServerLife, type LifeState } from './server-life.ts';
import type { ServerPrograms } from './server-programs.ts';
import { type ServerRole, readServerRole } from './server-role.ts';
import type { ServerUser } from './server-user.ts';
import { type StandbyLimits, higherLimits, standbyLimits } from './standby-limits.ts';

export interface AttachedServerOptions {
  programs: ServerPrograms;
  /** Absolute. */
  dataDirectory: string;
  user: ServerUser | undefined;
  /** As the data directory has it now. */
  role: 'standby' | 'primary';
  /** Where it listens, by which one that was left is known; absolute. */
  socketDirectory: string;
  /** Command line settings, made anew for each start. */
  settings: () => Record<string, string>;
  clock: Clock;
  log: Log;
  /** Lines that the server writes to its log, as they are, each once. */
  onLogLines: (text: string) => void;
}

export type AttachedState = 'down' | LifeState;

export interface AttachedStatus {
  state: AttachedState;
  role: ServerRole;
  pid: number | undefined;
  /** How it ended last and was not ready since, or what keeps it now, in words for people. */
  reason: string | undefined;
  /** How often it was started again. */
  restarts: number;
}

const RESTART_DELAY_MS_MAX = 10_000;

const ASKED_BY_OTHERS = 'Somebody has asked it to shut down.';

export class AttachedServer {
  /** Notified when `status` changes. */
  readonly changed = new Condition();
  readonly #options: AttachedServerOptions;
  readonly #abandoned = new AbortController();
  #life: ServerLife | undefined;
  /** While there is no life. */
  #role: 'standby' | 'primary';
  #reason: string | undefined;
  #restarts = 0;
  /** What the log has told of the server. */
  #told = { isReady: false, takesWrites: false };
  #hasRun = false;

  constructor(options: AttachedServerOptions) {
    this.#options = options;
    this.#role = options.role;
  }

  get status(): AttachedStatus {
    const { state = 'down', role = this.#role, pid } = this.#life ?? {};
    const isOthers = state === 'stopping' && this.#life?.isStopping === false;
    const reason = isOthers ? ASKED_BY_OTHERS : this.#reason;
    return { state, role, pid, reason, restarts: this.#restarts };
  }

  /** Whether it is a primary that is ready and has ended recovery. */
  get takesWrites(): boolean {
    return this.#life?.takesWrites ?? false;
  }

  /**
   * Starts the server, watches it and starts it again with backoff whenever it ends by itself;
   * when `signal` aborts, stops it (fast) and resolves once it is gone, however long that takes.
   * A server that an earlier node process left running is ended first; throws 55006 for any other
   * one in the data directory.
   */
  async run(signal: AbortSignal): Promise<void> {
    assert(!this.#hasRun, 'an attached server runs once');
    this.#hasRun = true;
    const stop = AbortSignal.any([signal, this.#abandoned.signal]);
    try {
      await this.#endLeftServer(stop);
      await this.#keepRunning(stop);
    } catch (error) {
      if (error !== stop.reason) throw error;
    }
  }

  /** Has the server read its configuration files again. */
  reload(): void {
    this.#life?.reload();
  }

  /**
   * Asks the standby to promote itself (pg_ctl.c, do_promote()), which `status` and `takesWrites`
   * tell of. Throws 55000 unless it is ready, and what the file system answers.
   */
  async promote(): Promise<void> {
    const { dataDirectory, user } = this.#options;
    const life = this.#life;
    if (life === undefined || life.state !== 'ready') throw notReady();
    await writePromotionRequest(dataDirectory, user);
    life.promote();
  }

  /** Takes `promote` back; false if the server had taken the request before. */
  withdrawPromotion(): Promise<boolean> {
    this.#life?.endPromotion();
    return withdrawPromotionRequest(this.#options.dataDirectory);
  }

  /** For an immediate shutdown of the node: sends SIGQUIT and does not wait. */
  abandon(): void {
    // Before it is asked for a fast shutdown, which it might be quick with.
    this.#life?.abandon();
    this.#abandoned.abort(new Error('the attached server is abandoned'));
  }

  async #endLeftServer(stop: AbortSignal): Promise<void> {
    const { dataDirectory, socketDirectory, clock, log } = this.#options;
    const onWaiting = (pid: number): void => {
      this.#reason = `The server of an earlier node process is shutting down (PID ${pid}).`;
      this.changed.notify();
    };
    await endLeftServer({ dataDirectory, socketDirectory, clock, log, onWaiting }, stop);
  }

  async #keepRunning(stop: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    for (let failures = 0; !stop.aborted; this.#restarts++) {
      const limits = await standbyLimits(this.#options);
      // A server is not started only to be stopped.
      stop.throwIfAborted();
      const life = new ServerLife({
        ...this.#options,
        settings: { ...limits.raised, ...this.#options.settings() },
        role: this.#role,
        onChange: () => this.#changed(),
        onPause: () => void this.#endPause(life, limits),
      });
      this.#life = life;
      const startedMs = clock.monotonicMs();
      const end = await life.run(stop).catch(couldNotStart);
      const { dataDirectory } = this.#options;
      this.#role = await readServerRole(dataDirectory).catch(() => this.#role);
      this.#life = undefined;
      this.#told = { isReady: false, takesWrites: false };
      if (stop.aborted) {
        log.log(`the attached PostgreSQL server ${end.words}`);
        this.changed.notify();
        return;
      }
      // One that is ready for a moment at each start has not come up either.
      const hasLasted = life.wasReady && clock.monotonicMs() - startedMs >= RESTART_DELAY_MS_MAX;
      failures = hasLasted ? 0 : failures + 1;
      if (life.isStopping) continue;
      log.warning(unexpectedEnd(end));
      this.#reason = end.lastWords ?? `It ${end.words}.`;
      this.changed.notify();
      await clock.sleep(retryDelayMs(failures, { maxMs: RESTART_DELAY_MS_MAX }), stop);
    }
  }

  /**
   * Replay waits for a start with higher limits than those of `before`: has the server stopped, to
   * be started with them. If another start would raise none, it would only wait again.
   */
  async #endPause(life: ServerLife, before: StandbyLimits): Promise<void> {
    const higher = higherLimits(await standbyLimits(this.#options), before);
    if (life !== this.#life || life.state === 'stopping') return;
    if (higher.length === 0) {
      this.#reason = 'It has paused replay because of insufficient parameter settings.';
      this.changed.notify();
      return;
    }
    const values = higher.map(({ name, value }) => `${name} = ${value}`).join(', ');
    this.#options.log.log(
      'restarting the attached PostgreSQL server with raised limits',
      `It has paused replay, as its WAL asks for ${values}.`,
    );
    this.#reason = 'It was stopped to be started again with raised limits.';
    life.shutDown();
  }

  #changed(): void {
    const before = this.#told;
    this.#told = { isReady: this.status.state === 'ready', takesWrites: this.takesWrites };
    const { log } = this.#options;
    if (this.#told.isReady) this.#reason = undefined;
    if (this.#told.isReady && !before.isReady) {
      log.log('the attached PostgreSQL server accepts connections');
    }
    if (this.#told.takesWrites && !before.takesWrites) {
      log.log('the attached PostgreSQL server is a primary and takes writes');
    }
    this.changed.notify();
  }
}

function notReady(): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'the attached PostgreSQL server does not accept connections',
  );
}

function couldNotStart(error: unknown): LifeEnd {
  return { words: `could not be started: ${describeSystemError(error)}`, lastWords: undefined };
}

function unexpectedEnd({ words, lastWords }: LifeEnd): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `the attached PostgreSQL server ${words}`,
    { detail: lastWords === undefined ? undefined : `The server said: ${lastWords}` },
  );
}
