/** A server's log, cut by its pipe at any place. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LogLines } from './log-lines.ts';

const LOG = Buffer.from('LOG:  größer\n\tÄ 😀\nDETAIL:  x\n');

test('lines come whole, wherever the log is cut, even within a character', () => {
  for (let first = 0; first <= LOG.length; first++) {
    for (let second = first; second <= LOG.length; second++) {
      const lines = new LogLines();
      const pieces = [LOG.subarray(0, first), LOG.subarray(first, second), LOG.subarray(second)];
      const texts = pieces.map((piece) => lines.push(piece));
      assert.ok(texts.every((text) => text === '' || text.endsWith('\n')));
      assert.equal(texts.join(''), LOG.toString());
      assert.equal(lines.end(), '');
    }
  }
});

test('what the server wrote last without a newline becomes a line', () => {
  const lines = new LogLines();
  assert.equal(lines.push(Buffer.from('one\ntw')), 'one\n');
  assert.equal(lines.push(Buffer.from('o')), '');
  assert.equal(lines.end(), 'two\n');
  assert.equal(lines.end(), '');
});

test('a line that does not end is handed on in pieces, so that it takes bounded memory', () => {
  const lines = new LogLines();
  const chunk = Buffer.alloc(256 * 1024, 'x');
  const texts = Array.from({ length: 12 }, () => lines.push(chunk));
  assert.equal(`${texts.join('')}${lines.end()}`.length, 12 * chunk.length + 1);
  assert.ok(texts.filter((text) => text !== '').length >= 2);
});
