/**
 * The attached server and the WAL receiver run beside each other and end in an order: of a server
 * that leads the receiver takes the last WAL, its shutdown checkpoint, which is to reach everybody
 * below; of any other upstream nothing more.
 */
import { endTogether } from '../base/task-group.ts';
import type { UpstreamConnections } from './upstream-connections.ts';

export interface ServerAndReceiver {
  /** Undefined for a relay. */
  server: { run(signal: AbortSignal): Promise<void> } | undefined;
  receiver: { run(signal: AbortSignal): Promise<void>; restart(reason: string): void };
  upstream: Pick<UpstreamConnections, 'isLeading' | 'onPromotion'>;
}

/** Runs both until `signal` aborts or one of them ends; resolves when both have ended. */
export async function runServerAndReceiver(
  { server, receiver, upstream }: ServerAndReceiver,
  signal: AbortSignal,
): Promise<void> {
  if (server === undefined) return receiver.run(signal);
  const receiving = new AbortController();
  const stopListening = upstream.onPromotion((reason) => receiver.restart(reason));
  await endTogether(signal, [
    async (group) => {
      try {
        await server.run(group);
      } finally {
        receiving.abort(group.reason);
      }
    },
    async (group) => {
      const end = (): void => {
        if (!upstream.isLeading) receiving.abort(group.reason);
      };
      if (group.aborted) end();
      group.addEventListener('abort', end, { once: true });
      await receiver.run(receiving.signal);
    },
  ]).finally(stopListening);
}
