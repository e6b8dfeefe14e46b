/** What of others' texts reaches a terminal. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { plainText, plainTextUpTo } from './plain-text.ts';

test('what could take over a terminal is shown as question marks', () => {
  assert.equal(plainText('at "\u001B[2J\u0007"'), 'at "?[2J?"');
  assert.equal(plainText('\u202Eevil\u2066'), '?evil?');
  assert.equal(plainText('a\uDC00b'), 'a?b');
});

test('what people read stays as it is, on one line', () => {
  assert.equal(plainText(' before\t2026-05-01\r\n 10:00 '), 'before 2026-05-01 10:00');
  assert.equal(plainText('Größe 🙂 点'), 'Größe 🙂 点');
});

test('a text that is too long is cut between characters', () => {
  assert.equal(plainTextUpTo(5, 'abcde'), 'abcde');
  assert.equal(plainTextUpTo(5, '🙂🙂🙂🙂🙂🙂'), '🙂🙂...');
});
