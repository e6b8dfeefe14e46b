/** In which order the attached server and the WAL receiver end. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runServerAndReceiver } from './server-and-receiver.ts';

const upstreamThat = ({ isLeading }: { isLeading: boolean }) => ({
  isLeading,
  onPromotion: () => () => {},
});

/** What runs until its signal, takes until `release` to end then, and notes its end. */
function part(name: string, events: string[]) {
  let release = (): void => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const run = async (signal: AbortSignal): Promise<void> => {
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    events.push(`${name} ends`);
    await released;
    events.push(`${name} has ended`);
  };
  return { run, restart: () => {}, release };
}

for (const [isLeading, order, sentence] of [
  [
    true,
    ['server ends', 'server has ended', 'receiver ends', 'receiver has ended'],
    'of a server that leads the last WAL is received',
  ],
  [
    false,
    ['server ends', 'receiver ends', 'server has ended', 'receiver has ended'],
    'nothing more is received for a server that follows',
  ],
] as const) {
  test(sentence, async () => {
    const events: string[] = [];
    const server = part('server', events);
    const receiver = part('receiver', events);
    const stop = new AbortController();
    const running = runServerAndReceiver(
      { server, receiver, upstream: upstreamThat({ isLeading }) },
      stop.signal,
    );
    stop.abort(new Error('stop'));
    server.release();
    receiver.release();
    await running;
    assert.deepEqual(events, order);
  });
}

test('a receiver that cannot go on ends the server, and is what is told', async () => {
  const server = part('server', []);
  server.release();
  const receiver = { run: () => Promise.reject(new Error('broken')), restart: () => {} };
  const upstream = upstreamThat({ isLeading: true });
  await assert.rejects(
    runServerAndReceiver({ server, receiver, upstream }, new AbortController().signal),
    { message: 'broken' },
  );
});
