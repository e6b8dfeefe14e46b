/** As whom a node comes to its attached server, by what the server answers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { AttachedRoles } from './attached-roles.ts';

const NEVER = new AbortController().signal;
const CLIENT = {} as ReplicationClient;

/** A server that lets `role` in, and the roles that were tried. */
function serverOf(role: string | undefined): { roles: AttachedRoles; tried: string[] } {
  const tried: string[] = [];
  const roles = new AttachedRoles(async (name) => {
    tried.push(name);
    if (name === role) return CLIENT;
    if (name === 'away') throw new WalcadeError('08001', 'connection refused');
    const sqlstate = name === 'postgres' ? '42501' : '28000';
    throw new WalcadeError(sqlstate, `role "${name}" does not exist`);
  });
  return { roles, tried };
}

test('the preferred role is tried first, and the one that was let in remembered', async () => {
  const { roles, tried } = serverOf('postgres');
  assert.equal(await roles.connect('replicator', NEVER), CLIENT);
  assert.equal(await roles.connect('replicator', NEVER), CLIENT);
  assert.deepEqual(tried, ['replicator', 'postgres', 'postgres']);
});

test('that no role is let in is told with what each was refused with', async () => {
  const { roles } = serverOf(undefined);
  await assert.rejects(roles.connect('replicator', NEVER), (error: WalcadeError) => {
    assert.equal(error.sqlstate, '28000');
    assert.match(error.detail ?? '', /^role "replicator" does not exist\. role "postgres"/);
    assert.match(error.hint ?? '', /"replicator"/);
    return true;
  });
});

test('what does not concern the role is no reason to try another', async () => {
  const { roles, tried } = serverOf(undefined);
  await assert.rejects(roles.connect('away', NEVER), { sqlstate: '08001' });
  assert.deepEqual(tried, ['away']);
});
