/**
 * Who may ask for a promotion, and when: one at a time, by the control socket or the trigger file.
 * Between promotions nothing of them is left on a standby. It lives as long as the node runs; a
 * promotion that is under way when the node stops is undone, or left to the server to finish.
 */
import { stat, unlink } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { PromoteRequest } from '../admin/control-socket.ts';
import { AssertionFailed } from '../base/assert.ts';
import { Condition } from '../base/condition.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import { endTogether } from '../base/task-group.ts';
import type { Attachment } from './attachment.ts';
import { LeftSlot } from './attached-slot.ts';
import { answerRestoreRequests } from './restore-requests.ts';
import { type PromotionOptions, promoteNode } from './promotion.ts';

export interface PromotionsOptions extends PromotionOptions {
  /** promote_trigger_file, in the node's directory or absolute; empty for none. */
  triggerFile: () => string;
  directory: string;
}

/** How often the trigger file is looked for, as PostgreSQL up to 15 did every five seconds. */
const TRIGGER_INTERVAL_MS = 1_000;
const TRIGGER_TIMEOUT_MS = 60_000;
/** How long after a failure the slot is tried to be dropped again. */
const DROP_INTERVAL_MS = 10_000;

interface Asked {
  request: PromoteRequest;
  done: () => void;
  failed: (error: unknown) => void;
}

export class Promotions {
  readonly #options: PromotionsOptions;
  readonly #changed = new Condition();
  #asked: Asked | undefined;
  #isRunning = false;

  constructor(options: PromotionsOptions) {
    this.#options = options;
  }

  /** Promotes the node; throws as promoteNode(), 55000 while another promotion is under way. */
  async promote(request: PromoteRequest): Promise<void> {
    if (!this.#isRunning) throw notRunning();
    if (this.#asked !== undefined) {
      throw new WalcadeError(
        SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
        'cannot promote node; it is being promoted already',
        { hint: 'Wait until that has ended; "walcade status" shows the role of its server.' },
      );
    }
    await new Promise<void>((done, failed) => {
      this.#asked = { request, done, failed };
      this.#changed.notify();
    });
  }

  async run(signal: AbortSignal): Promise<void> {
    const { attachment } = this.#options;
    this.#isRunning = true;
    try {
      await endTogether(signal, [
        (group) => this.#takeRequests(group),
        (group) => this.#watchTriggerFile(group),
        ...(attachment === undefined ? [] : [this.#answerServer.bind(this, attachment)]),
      ]);
    } finally {
      this.#isRunning = false;
      this.#asked?.failed(notRunning());
    }
  }

  async #takeRequests(signal: AbortSignal): Promise<void> {
    const { attachment, upstream, clock, log } = this.#options;
    const stopListening = attachment?.server.changed.listen(() => this.#changed.notify());
    const slot =
      attachment &&
      new LeftSlot({
        dataDirectory: attachment.dataDirectory,
        ask: (question, until) => upstream.askAttached(question, until),
        log,
      });
    try {
      for (;;) {
        let isLeft = false;
        if (this.#asked === undefined && this.#isStandby) {
          // Whatever has changed may have left the slot.
          isLeft = (await slot?.drop(signal)) === false;
        }
        if (this.#asked !== undefined) await this.#answer(this.#asked, signal);
        else if (isLeft) await this.#changed.waitAtMost(DROP_INTERVAL_MS, clock, signal);
        else await this.#changed.wait(signal);
      }
    } finally {
      stopListening?.();
    }
  }

  async #answer({ request, done, failed }: Asked, signal: AbortSignal): Promise<void> {
    try {
      await promoteNode(this.#options, request, signal);
      done();
    } catch (error) {
      failed(signal.aborted ? notRunning() : error);
      if (error instanceof AssertionFailed) throw error;
    }
    this.#asked = undefined;
  }

  async #watchTriggerFile(signal: AbortSignal): Promise<void> {
    const { directory, clock, log, triggerFile } = this.#options;
    let told: string | undefined;
    for (;;) {
      await clock.sleep(TRIGGER_INTERVAL_MS, signal);
      if (!this.#isStandby || this.#asked !== undefined) continue;
      if (triggerFile() === '') continue;
      const path = resolve(directory, triggerFile());
      try {
        if (!(await takeAway(path))) continue;
      } catch (error) {
        const { message } = asWalcadeError(error);
        if (message !== told) log.error(error);
        told = message;
        continue;
      }
      log.log(`promote trigger file found: ${path}`);
      const request = { force: false, timeoutMs: TRIGGER_TIMEOUT_MS };
      await this.promote(request).catch((error: unknown) => {
        signal.throwIfAborted();
        log.error(error);
      });
    }
  }

  /** Has the server copy all that downstreams may have been sent, if it is being promoted. */
  async #answerServer(attachment: Attachment, signal: AbortSignal): Promise<void> {
    const { upstream, store, log } = this.#options;
    const untilComplete = async (): Promise<void> => {
      if (!upstream.isBeingPromoted) return;
      await upstream.hold.untilReceiverIsHere(signal);
      await store.drained(signal);
    };
    await answerRestoreRequests({ path: attachment.restoreRequest, untilComplete, log }, signal);
  }

  get #isStandby(): boolean {
    const status = this.#options.attachment?.server.status;
    return status?.role === 'standby' && status.state === 'ready';
  }
}

/** Removes the trigger file, so that it promotes once; whether it was there. */
async function takeAway(path: string): Promise<boolean> {
  return accessing('remove promote trigger file', path, async () => {
    if ((await ifThere(stat(path))) === undefined) return false;
    await unlink(path);
    return true;
  });
}

function notRunning(): WalcadeError {
  return new WalcadeError(SQLSTATE.CANNOT_CONNECT_NOW, 'cannot promote node; it is not running', {
    detail: 'It is starting, or shutting down.',
  });
}
