/**
 * The attached server and the WAL receiver run beside each other and end in an order: of a server
 * that leads the receiver takes the last WAL, its shutdown checkpoint, which is to reach everybody
 * below; of any other upstream nothing more.
 */
import { endTogether } from '../base/task-group.ts';

export interface ServerAndReceiver {
  server: { run(signal: AbortSignal): Promise<void> };
  receiver: { run(signal: AbortSignal): Promise<void> };
  /** Whether the server is what is received from. */
  isLeading: () => boolean;
}

/** Runs both until `signal` aborts or one of them ends; resolves when both have ended. */
export async function runServerAndReceiver(
  { server, receiver, isLeading }: ServerAndReceiver,
  signal: AbortSignal,
): Promise<void> {
  const receiving = new AbortController();
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
        if (!isLeading()) receiving.abort(group.reason);
      };
      if (group.aborted) end();
      group.addEventListener('abort', end, { once: true });
      await receiver.run(receiving.signal);
    },
  ]);
}
