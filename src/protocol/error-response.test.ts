/** ErrorResponse and NoticeResponse: exact bytes, and what a peer may send instead. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import {
  UpstreamError,
  decodeErrorFields,
  encodeErrorResponse,
  encodeNoticeResponse,
  errorFromResponse,
} from './error-response.ts';

test('an error becomes the fields S, V, C and M, and D and H if it has them', () => {
  const plain = new WalcadeError('58P01', 'gone');
  assert.equal(
    encodeErrorResponse(plain, 'ERROR').toString('latin1'),
    'E\0\0\0\x20SERROR\0VERROR\0C58P01\0Mgone\0\0',
  );
  const full = new WalcadeError('22023', 'm', { detail: 'D.', hint: 'H.' });
  assert.equal(
    encodeNoticeResponse(full, 'WARNING').toString('latin1'),
    'N\0\0\0\x29SWARNING\0VWARNING\0C22023\0Mm\0DD.\0HH.\0\0',
  );
});

test('a zero byte in a message text does not end the message early', () => {
  const encoded = encodeErrorResponse(new WalcadeError('XX000', 'a\0b'), 'FATAL');
  assert.equal(decodeErrorFields(encoded.subarray(5)).message, 'ab');
});

test('an error of the upstream keeps its severity, SQLSTATE and texts', () => {
  const body = Buffer.from('SFEHLER\0VFATAL\0C57P03\0Mstarting\0DWhy.\0HWait.\0Fpostmaster.c\0\0');
  const error = errorFromResponse(body);
  assert.ok(error instanceof UpstreamError && error instanceof WalcadeError);
  const { severity, sqlstate, message, detail, hint } = error;
  assert.deepEqual(
    { severity, sqlstate, message, detail, hint },
    { severity: 'FATAL', sqlstate: '57P03', message: 'starting', detail: 'Why.', hint: 'Wait.' },
  );
});

test('fields that are missing get neutral values', () => {
  assert.deepEqual(decodeErrorFields(Buffer.from('SFEHLER\0WIn x.\0\0')), {
    severity: 'FEHLER',
    sqlstate: 'XX000',
    message: 'missing error text',
    context: 'In x.',
  });
});

test('a field list that is cut anywhere, or goes on after its end, is refused', () => {
  const error = new WalcadeError('22023', 'm', { detail: 'D.' });
  const body = encodeErrorResponse(error, 'ERROR').subarray(5);
  for (let length = 0; length < body.length; length++) {
    assert.throws(() => decodeErrorFields(body.subarray(0, length)), { sqlstate: '08P01' });
  }
  const longer = Buffer.concat([body, Buffer.alloc(1)]);
  assert.throws(() => decodeErrorFields(longer), { sqlstate: '08P01' });
});

const text = fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0'));

test('every error comes back as it was sent', () => {
  const option = fc.option(text, { nil: undefined });
  fc.assert(
    fc.property(text, option, option, (message, detail, hint) => {
      const options = {
        ...(detail === undefined ? {} : { detail }),
        ...(hint === undefined ? {} : { hint }),
      };
      const error = new WalcadeError('58P01', message, options);
      assert.deepEqual(decodeErrorFields(encodeErrorResponse(error, 'PANIC').subarray(5)), {
        severity: 'PANIC',
        sqlstate: '58P01',
        message,
        ...options,
      });
    }),
  );
});

test('any body is decoded or refused with 08P01', () => {
  fc.assert(
    fc.property(fc.uint8Array(), (body) => {
      try {
        errorFromResponse(body);
      } catch (error) {
        assert.ok(error instanceof WalcadeError);
        assert.equal(error.sqlstate, '08P01');
      }
    }),
  );
});
