/**
 * The promotion of a node: its attached server becomes a primary, and everybody below stays.
 *
 *   checked ─▶ receiver held ─▶ the server has all WAL ─▶ slot on it ─▶ asked ─▶ takes writes
 *
 * Where a promotion has come to is written nowhere: the server's data directory tells who leads
 * (server-role.ts). What fails before the server has taken the request is undone, and the receiver
 * goes on with the upstream it had; from then on the server finishes it, whatever becomes of us.
 */
import type { PromoteRequest } from '../admin/control-socket.ts';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { AttachedServer } from '../postgres/attached-server.ts';
import type { WalReceiver } from '../receiver/wal-receiver.ts';
import type { DownstreamTable } from '../sender/downstreams.ts';
import type { WalStore } from '../store/wal-store.ts';
import { formatLsn } from '../wal/lsn.ts';
import { ATTACHED_SLOT, makeAttachedSlot } from './attached-slot.ts';
import type { Attachment } from './attachment.ts';
import {
  type UpstreamLag,
  behindUpstream,
  isAboutToTell,
  missingBytes,
  promotionProgress,
  promotionRefusal,
  receivedOf,
} from './promotion-rules.ts';
import type { UpstreamConnections } from './upstream-connections.ts';

export interface PromotionOptions {
  attachment: Attachment | undefined;
  store: WalStore;
  receiver: WalReceiver;
  downstreams: DownstreamTable;
  upstream: UpstreamConnections;
  clock: Clock;
  log: Log;
}

/** How long a node that is behind may take to catch up. */
const CATCHUP_TIMEOUT_MS = 5_000;
/**
 * How long the server's WAL receiver may take for the rest. What it does not receive, its
 * restore_command copies from the node's pg_wal.
 */
const REST_TIMEOUT_MS = 5_000;
const POLL_MS = 20;

/** Promotes the node; throws what is against it, with nothing changed, or why it is not done. */
export async function promoteNode(
  options: PromotionOptions,
  { force, timeoutMs }: PromoteRequest,
  signal: AbortSignal,
): Promise<void> {
  const { attachment, clock } = options;
  const refusal = promotionRefusal(attachment?.server.status);
  if (attachment === undefined || refusal !== undefined) throw refusal;
  const limit = new AbortController();
  const timer = clock.setTimer(timeoutMs, () => limit.abort(notInTime(timeoutMs)));
  const onAbort = (): void => limit.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    if (!force) await catchUp(options, limit.signal);
    await new Promotion(options, attachment).run(limit.signal);
  } finally {
    timer.cancel();
    signal.removeEventListener('abort', onAbort);
  }
}

/** Waits for what the upstream has told of by now, while it comes; throws how much is missing. */
async function catchUp(
  { receiver, store, clock }: PromotionOptions,
  signal: AbortSignal,
): Promise<void> {
  const giveUpMs = clock.monotonicMs() + CATCHUP_TIMEOUT_MS;
  const isLate = (): boolean => clock.monotonicMs() >= giveUpMs;
  while (isAboutToTell(receiver.status) && !isLate()) await clock.sleep(POLL_MS, signal);
  const { upstreamWalEnd } = receiver.status;
  const lag = (): UpstreamLag => ({ received: receivedOf(store), upstreamWalEnd });
  while (missingBytes(lag()) > 0) {
    if (receiver.status.state !== 'streaming' || isLate()) throw behindUpstream(lag());
    await clock.sleep(POLL_MS, signal);
  }
}

class Promotion {
  readonly #options: PromotionOptions;
  readonly #attachment: Attachment;
  readonly #server: AttachedServer;
  #wasTaken = false;
  /** Its request has been made, and nobody has seen the end of it. */
  #isAsked = false;

  constructor(options: PromotionOptions, attachment: Attachment) {
    this.#options = options;
    this.#attachment = attachment;
    this.#server = attachment.server;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { upstream, receiver, log } = this.#options;
    const { hold } = upstream;
    log.log('received promote request');
    const stopListening = this.#server.changed.listen(() => {
      this.#wasTaken ||= this.#server.status.role !== 'standby';
    });
    try {
      await hold.close(() => receiver.restart('the node is being promoted'), signal);
      await this.#handOverRest(signal);
      await this.#makeSlot(signal);
      await this.#server.promote();
      this.#isAsked = true;
      log.log('asked the attached PostgreSQL server to promote itself');
      await this.#untilItTakesWrites(signal);
      log.log('node promoted');
    } catch (error) {
      throw await this.#undone(error);
    } finally {
      stopListening();
      hold.open();
    }
  }

  /** All that was served is to be in the node's files, and if possible with the server. */
  async #handOverRest(signal: AbortSignal): Promise<void> {
    const { store, downstreams, clock, log } = this.#options;
    await store.drained(signal);
    const served = store.served.value;
    const giveUpMs = clock.monotonicMs() + REST_TIMEOUT_MS;
    const hasRest = (): boolean => downstreams.all().some((d) => d.isAttached && d.flush >= served);
    while (!hasRest() && clock.monotonicMs() < giveUpMs) await clock.sleep(POLL_MS, signal);
    const position = formatLsn(served);
    log.log(
      hasRest()
        ? `the attached PostgreSQL server has received all WAL up to ${position}`
        : `the attached PostgreSQL server fetches the rest of WAL up to ${position}`,
    );
  }

  /** By it the server keeps the WAL of its timeline for the node, from the first record on. */
  async #makeSlot(signal: AbortSignal): Promise<void> {
    const { upstream, log } = this.#options;
    const { dataDirectory } = this.#attachment;
    await upstream.askAttached((client) => makeAttachedSlot(client, dataDirectory), signal);
    log.log(`replication slot "${ATTACHED_SLOT}" is on the attached PostgreSQL server`);
  }

  async #untilItTakesWrites(signal: AbortSignal): Promise<void> {
    for (;;) {
      const { takesWrites, status, changed } = this.#server;
      const progress = promotionProgress(status, { takesWrites, wasTaken: this.#wasTaken });
      if (progress === 'done') return;
      if (progress === 'broken-off') {
        this.#isAsked = false;
        throw brokenOff(status.reason);
      }
      await changed.wait(signal);
    }
  }

  /** Takes the request back; the error, with what became of it. */
  async #undone(error: unknown): Promise<unknown> {
    const { log } = this.#options;
    // A request that is gone was taken, also if the server has not told so yet.
    const isTakenBack = await this.#server.withdrawPromotion().catch((failure: unknown) => {
      log.warning(asWalcadeError(failure));
      return false;
    });
    if (this.#server.status.role === 'standby' && (isTakenBack || !this.#isAsked)) {
      log.log('the promotion is undone');
      return error;
    }
    return error instanceof NotInTime ? goesOn(error) : error;
  }
}

/** As pg_ctl says it. */
class NotInTime extends WalcadeError {}

function notInTime(timeoutMs: number): NotInTime {
  return new NotInTime(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'server did not promote in time',
    { detail: `It was waited for ${timeoutMs / 1000} s; the node is a standby as before.` },
  );
}

function goesOn({ sqlstate, message }: WalcadeError): WalcadeError {
  return new WalcadeError(sqlstate, message, {
    detail: 'It has taken the request, and goes on with it.',
    hint: 'Wait until it takes writes; "walcade status" shows it.',
  });
}

function brokenOff(reason: string | undefined): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'server has broken off its promotion',
    { detail: reason, hint: 'The log says why. The node is a standby as before.' },
  );
}
