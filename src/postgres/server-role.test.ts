/** What a data directory says of its server's role. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { readServerRole } from './server-role.ts';

test('a data directory with a signal file is of a standby, one without of a primary', async (t) => {
  const data = await mkdtemp(join(tmpdir(), 'role-'));
  t.after(() => rm(data, { recursive: true }));
  assert.equal(await readServerRole(data), 'primary');
  for (const name of ['standby.signal', 'recovery.signal']) {
    await writeFile(join(data, name), '');
    assert.equal(await readServerRole(data), 'standby', name);
    await rm(join(data, name));
  }
});
