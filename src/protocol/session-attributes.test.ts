/** Which servers fit target_session_attrs, by what they report or answer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type AskedServer,
  type SessionAttributes,
  checkSessionAttributes,
} from './session-attributes.ts';

const WANTED: readonly SessionAttributes[] = [
  'any',
  'read-write',
  'read-only',
  'primary',
  'standby',
  'prefer-standby',
];

/** A server of PostgreSQL 14 or later, which reports, and is not asked. */
function reporting(inHotStandby: string, defaultReadOnly = 'off'): AskedServer {
  return {
    parameters: new Map([
      ['in_hot_standby', inHotStandby],
      ['default_transaction_read_only', defaultReadOnly],
    ]),
    show: (name) => Promise.reject(new Error(`nobody asks for ${name}`)),
  };
}

/** A server of PostgreSQL 13, which is asked. */
function asked(readOnly: string, defaultReadOnly = 'off'): AskedServer {
  const settings = new Map([
    ['transaction_read_only', readOnly],
    ['default_transaction_read_only', defaultReadOnly],
  ]);
  return { parameters: new Map(), show: (name) => Promise.resolve(settings.get(name)) };
}

const SERVERS: [says: string, server: AskedServer, fits: SessionAttributes[]][] = [
  ['a primary', reporting('off'), ['read-write', 'primary']],
  ['a standby', reporting('on'), ['read-only', 'standby']],
  ['a primary that is read-only by a setting', reporting('off', 'on'), ['read-only', 'primary']],
  ['a primary of version 13', asked('off'), ['read-write', 'primary']],
  ['a standby of version 13', asked('on'), ['read-only', 'standby']],
  ['a server of version 13 that is read-only by a setting', asked('on', 'on'), ['read-only']],
];

for (const [says, server, fits] of SERVERS) {
  test(`${says} is taken for ${fits.join(' and ')}`, async () => {
    for (const wanted of WANTED) {
      const isRefused = await checkSessionAttributes(wanted, server).then(
        () => false,
        ({ sqlstate }: { sqlstate: string }) => sqlstate === '08004' || sqlstate === '0A000',
      );
      const isFit = wanted === 'any' || wanted === 'prefer-standby' || fits.includes(wanted);
      assert.equal(isRefused, !isFit, wanted);
    }
  });
}
