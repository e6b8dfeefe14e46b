/**
 * The first byte of every message after startup (manual, "Message Formats"), as it is compared. The
 * same byte can mean different messages in the two directions.
 */

/** The type bytes of messages from a server. */
export const BACKEND = {
  AUTHENTICATION: 0x52,
  BACKEND_KEY_DATA: 0x4b,
  COMMAND_COMPLETE: 0x43,
  COPY_BOTH_RESPONSE: 0x57,
  COPY_DATA: 0x64,
  COPY_DONE: 0x63,
  COPY_IN_RESPONSE: 0x47,
  COPY_OUT_RESPONSE: 0x48,
  DATA_ROW: 0x44,
  EMPTY_QUERY_RESPONSE: 0x49,
  ERROR_RESPONSE: 0x45,
  NEGOTIATE_PROTOCOL_VERSION: 0x76,
  NOTICE_RESPONSE: 0x4e,
  NOTIFICATION_RESPONSE: 0x41,
  PARAMETER_STATUS: 0x53,
  READY_FOR_QUERY: 0x5a,
  ROW_DESCRIPTION: 0x54,
} as const;

/** The type bytes of messages from a client. */
export const FRONTEND = {
  BIND: 0x42,
  CLOSE: 0x43,
  COPY_DATA: 0x64,
  COPY_DONE: 0x63,
  COPY_FAIL: 0x66,
  DESCRIBE: 0x44,
  EXECUTE: 0x45,
  FLUSH: 0x48,
  FUNCTION_CALL: 0x46,
  PARSE: 0x50,
  PASSWORD: 0x70,
  QUERY: 0x51,
  SYNC: 0x53,
  TERMINATE: 0x58,
} as const;

export const MESSAGE_TYPE = { BACKEND, FRONTEND } as const;
