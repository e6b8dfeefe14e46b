/**
 * TCP ports for the servers of tests, which keep their port over restarts.
 *
 * They lie below the range from which the system numbers outgoing connections: else such a
 * connection could sit on the port of a server that is down for a moment. A port is reserved by
 * a directory named after it, so that test files that run at once take different ones.
 */
import { mkdir, rmdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { systemErrorCode } from '../../src/base/errors.ts';

const PORT_MIN = 10_000;
const PORT_MAX = 32_000;
const ATTEMPTS_MAX = 1_000;

/** A port on which nobody listens, reserved below `directory` until it is released. */
export async function reservePort(directory: string): Promise<number> {
  for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
    const port = PORT_MIN + Math.floor(Math.random() * (PORT_MAX - PORT_MIN));
    try {
      await mkdir(join(directory, `port-${port}`));
    } catch (error) {
      if (systemErrorCode(error) === 'EEXIST') continue;
      throw error;
    }
    if (await isFree(port)) return port;
    await releasePort(directory, port);
  }
  throw new Error(`no free port among ${ATTEMPTS_MAX} tried`);
}

export async function releasePort(directory: string, port: number): Promise<void> {
  await rmdir(join(directory, `port-${port}`));
}

async function isFree(port: number): Promise<boolean> {
  const probe = createServer();
  return new Promise((resolve) => {
    probe.once('error', () => resolve(false));
    probe.listen({ port, host: '127.0.0.1', exclusive: true }, () => {
      probe.close(() => resolve(true));
    });
  });
}
