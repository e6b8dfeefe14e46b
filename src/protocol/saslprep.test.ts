/** SASLprep: the examples of RFC 4013, and PostgreSQL's way with what is prohibited. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { saslprep } from './saslprep.ts';

test('equal passwords become one', () => {
  const cases: [string, string][] = [
    ['I\u00adX', 'IX'],
    ['user', 'user'],
    ['USER', 'USER'],
    ['\u00aa', 'a'],
    ['\u2168', 'IX'],
    ['cafe\u0301', 'caf\u00e9'],
    ['a\u00a0b\u3000c\u200bd', 'a b c d'],
    ['\u0627\u0628', '\u0627\u0628'],
    ['\u05d01\u05d1', '\u05d01\u05d1'],
  ];
  for (const [password, prepared] of cases) assert.equal(saslprep(password), prepared);
});

test('a password that is prohibited is used as it is', () => {
  const prohibited = [
    ['a control character', '\u2168\u0007'],
    ['a private-use character', '\u2168\ue000'],
    ['a character that Unicode 3.2 did not have', '\u2168\u{1f600}'],
    ['a noncharacter', '\u2168\ufdd0'],
    ['half of a surrogate pair', '\u2168\ud800'],
    ['both directions', '\u2168\u0627'],
    ['right to left with a digit at its end', '\u0627\u00b9'],
    ['nothing that is left', '\u00ad'],
  ];
  for (const [what, password] of prohibited) assert.equal(saslprep(password ?? ''), password, what);
});

test('a password that is all ASCII is never changed', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary-ascii' }), (password) => {
      assert.equal(saslprep(password), password);
    }),
  );
});

test('a prepared password is prepared', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (password) => {
      const prepared = saslprep(password);
      assert.equal(saslprep(prepared), prepared);
    }),
  );
});
