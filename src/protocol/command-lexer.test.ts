/** How a command is cut into words: identifiers, tokens, and where an error is. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CommandLexer } from './command-lexer.ts';
import { parseReplicationCommand } from './replication-command.ts';

test('a command is cut as PostgreSQL cuts it', () => {
  const lexer = new CommandLexer("SLOT SLOTS \"x\" 'a''b' 12ab/C0 7x (é", new Set(['SLOT']));
  const tokens: string[] = [];
  for (;;) {
    const { kind, text } = lexer.next();
    if (kind === 'end') break;
    tokens.push(`${kind} ${text}`);
  }
  assert.deepEqual(tokens, [
    'keyword SLOT',
    'identifier SLOTS',
    'identifier "x"',
    "string 'a''b'",
    'lsn 12ab/C0',
    'integer 7',
    'identifier x',
    'symbol (',
    'identifier é',
  ]);
  assert.equal(lexer.next().kind, 'end');
});

test('identifiers are folded if bare, unescaped if quoted, and cut at 63 bytes', () => {
  const shown = (name: string): unknown => parseReplicationCommand(`SHOW ${name}`, 180_006);
  const is = (name: string): unknown => ({ kind: 'show', name });
  assert.deepEqual(shown('Aé$1_'), is('aé$1_'));
  assert.deepEqual(shown('É'), is('É'));
  assert.deepEqual(shown('"A ""b"" É"'), is('A "b" É'));
  assert.deepEqual(shown('x'.repeat(70)), is('x'.repeat(63)));
  assert.deepEqual(shown('é'.repeat(40)), is('é'.repeat(31)));
  assert.deepEqual(shown(`"${'😀'.repeat(16)}"`), is('😀'.repeat(15)));
});

test('a syntax error says where it is', () => {
  assert.throws(() => parseReplicationCommand('SHOW  12 x', 180_006), {
    detail: 'The error is at or near "12", character 7 of the command.',
  });
  assert.throws(() => parseReplicationCommand('SHOW ', 180_006), {
    detail: 'The error is at the end of the command.',
  });
});
