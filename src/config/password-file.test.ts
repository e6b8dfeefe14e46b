/**
 * The password file gives what libpq finds in it, and says why when it is not used.
 */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { findPassword, readPasswordFile } from './password-file.ts';

const QUERY = { host: 'db1', port: 5432, database: 'replication', user: 'repl' };

const CASES: [claim: string, content: string, password: string | undefined][] = [
  ['an exact line matches', 'db1:5432:replication:repl:secret', 'secret'],
  ['asterisks match anything', '*:*:*:*:secret', 'secret'],
  ['the first match wins', '*:*:*:repl:one\n*:*:*:repl:two', 'one'],
  ['another database does not match', 'db1:5432:postgres:repl:secret', undefined],
  ['another port does not match', 'db1:5433:*:repl:secret', undefined],
  ['part of a name does not match', 'db:5432:*:repl:no\ndb11:5432:*:repl:no', undefined],
  ['a comment is no line', '#db1:5432:*:repl:secret', undefined],
  ['a line with too few fields is passed over', 'db1:5432:*:repl\n*:*:*:*:x', 'x'],
  ['an escaped asterisk is an asterisk', '\\*:*:*:*:secret', undefined],
  ['escaped colons and backslashes are taken literally', '*:*:*:re\\pl:a\\:b\\\\c', 'a:b\\c'],
  ['a bare colon ends the password', '*:*:*:*:one:two', 'one'],
  ['an empty password is a password', '*:*:*:*:', ''],
  ['a carriage return at the end of a line is dropped', '*:*:*:*:secret\r\n', 'secret'],
  ['a backslash that ends the line is kept', '*:*:*:*:secret\\', 'secret\\'],
];

describe('password file', () => {
  for (const [claim, content, password] of CASES) {
    test(claim, () => assert.equal(findPassword(content, QUERY), password));
  }

  test('a Unix socket is looked up as localhost or by its directory', () => {
    const socket = { ...QUERY, host: '/tmp' };
    assert.equal(findPassword('localhost:5432:*:*:secret', socket), 'secret');
    assert.equal(findPassword('/tmp:5432:*:*:secret', socket), 'secret');
    assert.equal(findPassword('/var/run:5432:*:*:secret', socket), undefined);
  });

  test('a file that others can read is ignored with a warning', async (t) => {
    const directory = await mkdtemp(join(tmpdir(), 'walcade-passfile-'));
    t.after(() => rm(directory, { recursive: true }));
    const path = join(directory, 'pgpass');
    assert.deepEqual(await readPasswordFile(path, QUERY), { kind: 'no-file' });
    await writeFile(path, '*:*:*:repl:secret\n', { mode: 0o600 });
    assert.deepEqual(await readPasswordFile(path, QUERY), { kind: 'found', password: 'secret' });
    assert.deepEqual(await readPasswordFile(path, { ...QUERY, user: 'x' }), { kind: 'no-match' });
    await chmod(path, 0o640);
    const warning =
      `password file "${path}" has group or world access; ` +
      'permissions should be u=rw (0600) or less';
    assert.deepEqual(await readPasswordFile(path, QUERY), { kind: 'ignored', warning });
    assert.deepEqual(await readPasswordFile(directory, QUERY), {
      kind: 'ignored',
      warning: `password file "${directory}" is not a plain file`,
    });
  });
});
