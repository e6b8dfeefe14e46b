/**
 * SASLprep (RFC 4013): two ways of typing a password become one before it is hashed.
 *
 * As PostgreSQL does it (saslprep.c, pg_saslprep()): a password that the profile prohibits is used
 * as it is, and one that is all ASCII is never changed, control characters included.
 */
import { LEFT_TO_RIGHT, RIGHT_TO_LEFT, UNASSIGNED } from './saslprep-tables.ts';

/** RFC 3454, table C.1.2. */
const SPACES = /[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000]/gu;

/** RFC 3454, table B.1. */
const MAPPED_TO_NOTHING =
  /\u00ad|\u034f|\u1806|[\u180b-\u180d]|[\u2060\ufeff]|\u200c|\u200d|[\ufe00-\ufe0f]/gu;

/** RFC 3454, tables C.2.1, C.2.2, C.3 and C.5 to C.9 (C.4 is with the unassigned ones). */
const PROHIBITED = new RegExp(
  [
    '[\\u0000-\\u001f\\u007f-\\u009f\\u06dd\\u070f\\u180e\\u200c\\u200d\\u2028\\u2029]',
    '[\\u2060-\\u2063\\u206a-\\u206f\\ufeff\\ufff9-\\ufffd\\u{1d173}-\\u{1d17a}]',
    '[\\ue000-\\uf8ff\\u{f0000}-\\u{ffffd}\\u{100000}-\\u{10fffd}\\ud800-\\udfff]',
    '[\\u2ff0-\\u2ffb\\u0340\\u0341\\u200e\\u200f\\u202a-\\u202e\\u{e0001}\\u{e0020}-\\u{e007f}]',
  ].join('|'),
  'u',
);

/** The password whose UTF-8 is to be hashed. */
export function saslprep(password: string): string {
  if (/^[\0-\x7f]*$/.test(password)) return password;
  const prepared = password.replace(SPACES, ' ').replace(MAPPED_TO_NOTHING, '').normalize('NFKC');
  return isPermitted(prepared) ? prepared : password;
}

function isPermitted(text: string): boolean {
  if (text === '' || PROHIBITED.test(text)) return false;
  const codePoints = Array.from(text, (character) => character.codePointAt(0) ?? 0);
  return !codePoints.some(UNASSIGNED) && isOneDirection(codePoints);
}

/** RFC 3454, section 6: text from right to left holds no other, and shows it at both ends. */
function isOneDirection(codePoints: readonly number[]): boolean {
  if (!codePoints.some(RIGHT_TO_LEFT)) return true;
  if (codePoints.some(LEFT_TO_RIGHT)) return false;
  return RIGHT_TO_LEFT(codePoints.at(0) ?? 0) && RIGHT_TO_LEFT(codePoints.at(-1) ?? 0);
}
