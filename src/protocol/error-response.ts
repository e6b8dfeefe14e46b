/**
 * ErrorResponse and NoticeResponse: a WalcadeError to a downstream, and an upstream's error as a
 * WalcadeError. The fields are those of the manual's "Error and Notice Message Fields"; the text
 * of an error crosses a node unchanged.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { ByteReader, cstring, message } from './bytes.ts';

export type ErrorSeverity = 'ERROR' | 'FATAL' | 'PANIC';
export type NoticeSeverity = 'WARNING' | 'NOTICE' | 'DEBUG' | 'INFO' | 'LOG';

export interface ErrorFields {
  /** As the server says it in English (field V), else as it translates it (field S). */
  severity: string;
  sqlstate: string;
  message: string;
  detail?: string;
  hint?: string;
  /** Field W: the context in which the error occurred. */
  context?: string;
}

/** An error that the server at the other end of a connection has reported. */
export class UpstreamError extends WalcadeError {
  readonly severity: string;

  constructor({ severity, sqlstate, message: text, detail, hint }: ErrorFields) {
    super(sqlstate, text, {
      ...(detail === undefined ? {} : { detail }),
      ...(hint === undefined ? {} : { hint }),
    });
    this.severity = severity;
  }
}

/** After ERROR the session goes on with ReadyForQuery; after FATAL and PANIC it is closed. */
export function encodeErrorResponse(error: WalcadeError, severity: ErrorSeverity): Buffer {
  return message('E', encodeFields(error, severity));
}

export function encodeNoticeResponse(error: WalcadeError, severity: NoticeSeverity): Buffer {
  return message('N', encodeFields(error, severity));
}

function encodeFields(error: WalcadeError, severity: string): Buffer {
  const fields: [string, string | undefined][] = [
    ['S', severity],
    ['V', severity],
    ['C', error.sqlstate],
    ['M', error.message],
    ['D', error.detail],
    ['H', error.hint],
  ];
  const parts: Buffer[] = [];
  for (const [code, value] of fields) {
    if (value !== undefined) parts.push(cstring(code + value.replaceAll('\0', '')));
  }
  return Buffer.concat([...parts, Buffer.alloc(1)]);
}

/**
 * The fields of an ErrorResponse or NoticeResponse. A field that is missing gets a neutral value,
 * one that is not known is passed over; a body that is no field list is refused with 08P01.
 */
export function decodeErrorFields(body: Uint8Array): ErrorFields {
  const reader = new ByteReader(body, 'E');
  const values = new Map<string, string>();
  for (;;) {
    const code = reader.uint8();
    if (code === 0) break;
    values.set(String.fromCharCode(code), reader.cstring());
  }
  reader.end();
  const detail = values.get('D');
  const hint = values.get('H');
  const context = values.get('W');
  return {
    severity: values.get('V') ?? values.get('S') ?? 'ERROR',
    sqlstate: values.get('C') ?? SQLSTATE.INTERNAL_ERROR,
    message: values.get('M') ?? 'missing error text',
    ...(detail === undefined ? {} : { detail }),
    ...(hint === undefined ? {} : { hint }),
    ...(context === undefined ? {} : { context }),
  };
}

/** The error that an ErrorResponse reports. Throws 08P01 for a body that is none. */
export function errorFromResponse(body: Uint8Array): UpstreamError {
  return new UpstreamError(decodeErrorFields(body));
}
