/** System errors as people are told of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { accessing, ifThere } from './file-access-error.ts';

const systemError = (code: string): Error => Object.assign(new Error(`${code}: raw`), { code });

test('a system error is told in the words and with the SQLSTATE of PostgreSQL', async () => {
  const cases = [
    ['ENOSPC', '53100', 'No space left on device'],
    ['EDQUOT', '53100', 'Disk quota exceeded'],
    ['EACCES', '42501', 'Permission denied'],
    ['EROFS', '42501', 'Read-only file system'],
    ['EIO', '58030', 'Input/output error'],
    ['ENAMETOOLONG', '58030', 'File name too long'],
    ['ELOOP', '58030', 'Too many levels of symbolic links'],
  ];
  for (const [code = '', sqlstate, text] of cases) {
    const failing = accessing('write file', '/node/walcade.conf', async () => {
      throw systemError(code);
    });
    await assert.rejects(failing, {
      sqlstate,
      message: `could not write file "/node/walcade.conf": ${text}`,
    });
  }
});

test('what goes well is given, and what is no system error is thrown as it is', async () => {
  assert.equal(await accessing('read file', '/a', async () => 7), 7);
  const other = new Error('of another kind');
  await assert.rejects(
    accessing('read file', '/a', async () => {
      throw other;
    }),
    (error) => error === other,
  );
});

test('what is not there is undefined, what is there and cannot be used an error', async () => {
  assert.equal(await ifThere(Promise.resolve(7)), 7);
  assert.equal(await ifThere(Promise.reject(systemError('ENOENT'))), undefined);
  await assert.rejects(ifThere(Promise.reject(systemError('ENOTDIR'))), { code: 'ENOTDIR' });
  await assert.rejects(ifThere(Promise.reject(new Error('ENOENT'))), { message: 'ENOENT' });
});
