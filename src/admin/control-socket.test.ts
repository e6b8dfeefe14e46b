/** The control socket: what it answers, to whom, and what is said when nobody listens. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { readStatus, requestReload, serveControl } from './control-socket.ts';
import type { NodeStatus } from './node-status.ts';

const status = { name: 'relay', state: 'running' } as NodeStatus;

async function socketPath(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-'));
  t.after(() => rm(directory, { recursive: true }));
  return join(directory, 'walcade.sock');
}

test('status and reload are answered, to the owner only, over a stale socket too', async (t) => {
  const path = await socketPath(t);
  await writeFile(path, 'left by a crash');
  const outcome = { error: null, needRestart: ['port'] };
  let reloads = 0;
  const server = await serveControl(path, {
    status: () => status,
    reload: async () => {
      reloads += 1;
      return outcome;
    },
  });
  t.after(() => server.close());
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.deepEqual(await readStatus(path), status);
  assert.equal(reloads, 0);
  assert.deepEqual(await requestReload(path), outcome);
  assert.equal(reloads, 1);

  // Nothing else is there, and looking does not reload.
  const code = await new Promise((resolve) => {
    http.get({ socketPath: path, path: '/reload' }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
  });
  assert.equal(code, 404);
  assert.equal(reloads, 1);
});

test('a node that does not answer is reported with its socket', async (t) => {
  const path = await socketPath(t);
  await assert.rejects(readStatus(path), {
    sqlstate: '08001',
    message: `could not connect to control socket "${path}": No such file or directory`,
  });
});

// A downstream that reported at PostgreSQL's infinity made the status, and with it the node, fail.
test('a question that goes wrong is answered, and the next one too', async (t) => {
  const path = await socketPath(t);
  let isBroken = true;
  const server = await serveControl(path, {
    status: () => {
      if (isBroken) throw new RangeError('Invalid time value');
      return status;
    },
    reload: () => Promise.reject(new Error('no')),
  });
  t.after(() => server.close());
  const code = await new Promise((resolve) => {
    http.get({ socketPath: path, path: '/status' }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
  });
  assert.equal(code, 500);
  isBroken = false;
  assert.deepEqual(await readStatus(path), status);
});
