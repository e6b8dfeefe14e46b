/**
 * What the attached server's log tells that no file does: whether it replays, that it has taken a
 * request to promote itself, that it starts anew after one of its processes crashed, and what it
 * said before it ended. One for each start.
 *
 * Only lines of processes without a session count, which log_line_prefix tells apart
 * (continuation lines begin with a tab). Of those, a function of a client's can write some in a
 * parallel worker: what only the postmaster says has to be of its process, what the startup process
 * says of the one that spoke before there were clients.
 */

/** The lines as `log_line_prefix` in server-settings.ts makes them, without `[user@database]`. */
const LINE = /^\S+ \S+ UTC \[([0-9]+)\] (LOG|WARNING|FATAL|PANIC): {2}(?:[0-9A-Z]{5}: )?(.*)$/;
const ANY_PREFIX = /^\S+ \S+ UTC \[[0-9]+\] /;

/** The end of a process because of which the postmaster gives up (LogChildExit()). */
const PROCESS_END =
  /^(?:startup process \(PID ([0-9]+)\) exited with|.* \(PID ([0-9]+)\) was terminated by) /;

const FATAL_MAX = 16;

const PAUSED = 'hot standby is not possible because of insufficient parameter settings';

export class ServerLogReader {
  #replays = false;
  #isReinitializing = false;
  /** The startup process of a standby. */
  #startup: number | undefined;
  #isPromoting = false;
  #lacksLimits = false;
  #isSpeaking = false;
  /** Before the log is set up, what goes wrong is said without a prefix. */
  #firstWords: string | undefined;
  #processEnd: { pid: number; line: string } | undefined;
  /** The last FATAL or PANIC of each process. */
  readonly #fatal = new Map<number, string>();

  /** Whether redo has begun since the server started, or started anew. */
  get replays(): boolean {
    return this.#replays;
  }

  /**
   * Whether the server ended all its processes and starts them anew, as it does when one of them
   * crashed: its postmaster.pid says `ready` all the while.
   */
  get isReinitializing(): boolean {
    return this.#isReinitializing;
  }

  /** Whether the server has taken a request to promote itself, whoever made it. */
  get isPromoting(): boolean {
    return this.#isPromoting;
  }

  /**
   * Whether replay has been paused because a limit is lower than the primary's (from 14 on). A
   * parallel worker may have said so too.
   */
  get lacksLimits(): boolean {
    return this.#lacksLimits;
  }

  /** Takes note of `text`, one or more whole lines of the server that `postmaster` began. */
  read(text: string, postmaster: number | undefined): void {
    for (const line of text.split('\n')) this.#readLine(line, postmaster);
  }

  /**
   * Why the server ended, in its own words: what its postmaster said last, else the process
   * because of whose end it gave up. (A WAL receiver's FATAL is none of both.)
   */
  lastWords(postmaster: number | undefined): string | undefined {
    const own = postmaster === undefined ? undefined : this.#fatal.get(postmaster);
    const ended = this.#processEnd;
    const others = ended === undefined ? undefined : (this.#fatal.get(ended.pid) ?? ended.line);
    return own ?? others ?? this.#firstWords;
  }

  #readLine(line: string, postmaster: number | undefined): void {
    const match = LINE.exec(line);
    if (match === null) {
      if (ANY_PREFIX.test(line)) this.#isSpeaking = true;
      else if (!this.#isSpeaking && line !== '') this.#firstWords = line;
      return;
    }
    this.#isSpeaking = true;
    const [, pid, level = '', message = ''] = match;
    if (level === 'WARNING') this.#lacksLimits ||= message === PAUSED;
    else if (level !== 'LOG') this.#remember(Number(pid), `${level}:  ${message}`);
    else if (message.startsWith('redo starts at ')) this.#replays = true;
    else if (message === 'entering standby mode') this.#startup ??= Number(pid);
    else if (Number(pid) === postmaster) this.#readPostmaster(message);
    else if (Number(pid) === this.#startup) {
      this.#isPromoting ||= message === 'received promote request';
    }
  }

  #readPostmaster(message: string): void {
    const ended = PROCESS_END.exec(message);
    if (ended !== null) this.#processEnd = { pid: Number(ended[1] ?? ended[2]), line: message };
    if (message.startsWith('database system is ready to accept ')) {
      this.#isReinitializing = false;
      this.#processEnd = undefined;
    }
    if (message === 'all server processes terminated; reinitializing') {
      this.#isReinitializing = true;
      this.#replays = false;
      this.#startup = undefined;
      this.#isPromoting = false;
    }
  }

  /** WAL receivers come and go, each with its FATAL; of all, only the last few can matter. */
  #remember(pid: number, words: string): void {
    this.#fatal.delete(pid);
    this.#fatal.set(pid, words);
    const [oldest] = this.#fatal.keys();
    if (this.#fatal.size > FATAL_MAX && oldest !== undefined) this.#fatal.delete(oldest);
  }
}
