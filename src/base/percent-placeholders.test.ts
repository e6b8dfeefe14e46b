/** Placeholders are replaced and refused as percentrepl.c does it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { replacePercentPlaceholders } from './percent-placeholders.ts';

const values = { f: '000000010000000000000005', p: 'pg_wal/RECOVERYXLOG' };
const replace = (text: string): string =>
  replacePercentPlaceholders('restore_command', text, values);

test('a placeholder is replaced wherever it stands, and a doubled % stands for one', () => {
  const expected = 'cp "/a%f/000000010000000000000005" pg_wal/RECOVERYXLOG 100%';
  assert.equal(replace('cp "/a%%f/%f" %p 100%%'), expected);
});

test('a value with a % in it is no placeholder again', () => {
  assert.equal(replacePercentPlaceholders('a', '%f%f', { f: '%f' }), '%f%f');
});

const REFUSED: [text: string, detail: string][] = [
  ['cp /a/%F %p', 'String contains unexpected placeholder "%F".'],
  ['cp /a/%f %', 'String ends unexpectedly after escape character "%".'],
  ['cp %constructor', 'String contains unexpected placeholder "%c".'],
];

for (const [text, detail] of REFUSED) {
  test(`'${text}' is refused: ${detail}`, () => {
    assert.throws(() => replace(text), {
      sqlstate: '22023',
      message: `invalid value for parameter "restore_command": "${text}"`,
      detail,
    });
  });
}
