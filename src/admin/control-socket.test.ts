/** The control socket: what it answers, to whom, and what is said when nobody listens. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { WalcadeError } from '../base/errors.ts';
import { readStatus, requestFollow, requestPromotion, requestReload } from './control-client.ts';
import { type PromoteRequest, outcomeOf, serveControl } from './control-socket.ts';
import type { NodeStatus } from './node-status.ts';

const promote = async () => ({ error: null });
const follow = async () => ({ error: null, notices: [] });
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
    promote,
    follow,
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
    promote,
    follow,
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

test('a promotion is asked for with all that it heeds, and answered with its error', async (t) => {
  const path = await socketPath(t);
  const asked: PromoteRequest[] = [];
  const server = await serveControl(path, {
    status: () => status,
    reload: () => Promise.reject(new Error('no')),
    promote: (request) => {
      asked.push(request);
      return outcomeOf(Promise.reject(new WalcadeError('55000', 'no', { hint: 'Wait.' })));
    },
    follow,
  });
  t.after(() => server.close());
  const request = { force: true, timeoutMs: 120_000 };
  assert.deepEqual(await requestPromotion(path, request), {
    error: { message: 'no', hint: 'Wait.' },
  });
  assert.deepEqual(asked, [request]);
});

test('any conninfo may be asked to be followed, which is called off with the asker', async (t) => {
  const path = await socketPath(t);
  const asked: string[] = [];
  let calledOff = (): void => {};
  const isCalledOff = new Promise<void>((resolve) => {
    calledOff = resolve;
  });
  const server = await serveControl(path, {
    status: () => status,
    reload: () => Promise.reject(new Error('no')),
    promote,
    follow: (conninfo, signal) => {
      asked.push(conninfo);
      if (asked.length === 1) return Promise.resolve({ error: null, notices: [] });
      signal.addEventListener('abort', calledOff);
      return new Promise(() => {});
    },
  });
  t.after(() => server.close());
  const conninfo = "host=a,b port='5432' password='x&y=z% ü'";
  assert.deepEqual(await requestFollow(path, conninfo), { error: null, notices: [] });
  assert.deepEqual(asked, [conninfo]);
  const request = http.request({ socketPath: path, method: 'POST', path: '/follow?conninfo=x' });
  request.on('error', () => {});
  request.end();
  while (asked.length < 2) await new Promise((resolve) => setImmediate(resolve));
  request.destroy();
  await isCalledOff;
});
