/**
 * Logging in to an upstream: one answer to each of its authentication requests. It does no I/O; the
 * connection hands in requests and sends the answers. It lives until it has been accepted.
 *
 *   start ──cleartext, md5──▶ answered ──Ok──▶ accepted
 *     ├───────────Ok─────────────────────────▶ accepted      (the server trusts us)
 *     └──SASL──▶ begun ──SASLContinue──▶ proven ──SASLFinal──▶ verified ──Ok──▶ accepted
 *
 * Once SCRAM has begun, nothing but its next step is accepted, so that an impostor cannot end it
 * early or ask for the password itself. Its words are libpq's (fe-auth.c).
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { AuthenticationRequest } from './backend-messages.ts';
import { asBuffer } from './bytes.ts';
import {
  encodePassword,
  encodeSaslInitialResponse,
  encodeSaslResponse,
} from './frontend-messages.ts';
import { SCRAM_SHA_256, ScramClient, md5Password } from './scram.ts';

export interface Authenticator {
  /** Whether the server has let us in. A session that starts without it was not authenticated. */
  readonly accepted: boolean;
  /**
   * The message to send for `request`, or `done` if nothing is left to be sent.
   * Throws 28P01 if a password is needed and there is none, 0A000 for a method that is not
   * supported, 08P01 and 28000 for a server that does not keep to the exchange.
   */
  answer(request: AuthenticationRequest): Buffer | 'done';
}

type State =
  | { kind: 'start' }
  | { kind: 'answered' }
  | { kind: 'begun'; scram: ScramClient }
  | { kind: 'proven'; scram: ScramClient }
  | { kind: 'verified' }
  | { kind: 'accepted' };

/** Methods by their number on the wire, as libpq calls them. */
const UNSUPPORTED_METHODS = new Map([
  [2, 'Kerberos 5'],
  [7, 'GSSAPI'],
  [8, 'GSSAPI'],
  [9, 'SSPI'],
]);

export function createAuthenticator(credentials: {
  user: string;
  password: string | undefined;
}): Authenticator {
  const { user } = credentials;
  let state: State = { kind: 'start' };

  const requirePassword = (): string => {
    if (credentials.password) return credentials.password;
    throw new WalcadeError(SQLSTATE.INVALID_PASSWORD, 'no password supplied', {
      detail: `The upstream requires a password for user "${user}".`,
      hint: 'Set password or passfile in primary_conninfo, or add a line to ~/.pgpass.',
    });
  };

  return {
    get accepted() {
      return state.kind === 'accepted';
    },
    answer(request) {
      switch (request.kind) {
        case 'ok':
          if (state.kind === 'begun' || state.kind === 'proven') {
            throw violation('server did not complete authentication');
          }
          state = { kind: 'accepted' };
          return 'done';
        case 'cleartext-password':
          expectState(state, 'start', request);
          state = { kind: 'answered' };
          return encodePassword(requirePassword());
        case 'md5-password':
          expectState(state, 'start', request);
          state = { kind: 'answered' };
          return encodePassword(md5Password(user, requirePassword(), request.salt));
        case 'sasl': {
          expectState(state, 'start', request);
          requireScram(request.mechanisms);
          const scram = new ScramClient(requirePassword());
          state = { kind: 'begun', scram };
          return encodeSaslInitialResponse(SCRAM_SHA_256, scram.firstMessage);
        }
        case 'sasl-continue': {
          expectState(state, 'begun', request);
          const { scram } = state;
          state = { kind: 'proven', scram };
          return encodeSaslResponse(scram.answer(asBuffer(request.data).toString('utf8')));
        }
        case 'sasl-final':
          expectState(state, 'proven', request);
          state.scram.verify(asBuffer(request.data).toString('utf8'));
          state = { kind: 'verified' };
          return 'done';
        case 'other':
          break;
      }
      throw unsupportedMethod(request.method);
    },
  };
}

function expectState<K extends State['kind']>(
  state: State,
  expected: K,
  request: AuthenticationRequest,
): asserts state is Extract<State, { kind: K }> {
  if (state.kind === expected) return;
  throw violation('unexpected authentication request from server', {
    detail: `The request is "${request.kind}", the exchange is in state "${state.kind}".`,
  });
}

function requireScram(mechanisms: readonly string[]): void {
  if (mechanisms.includes(SCRAM_SHA_256)) return;
  throw new WalcadeError(
    SQLSTATE.FEATURE_NOT_SUPPORTED,
    "none of the server's SASL authentication mechanisms are supported",
    { detail: `The server offers ${mechanisms.join(', ') || 'none'}.` },
  );
}

function unsupportedMethod(method: number): WalcadeError {
  const name = UNSUPPORTED_METHODS.get(method);
  const text =
    name === undefined
      ? `authentication method ${method} not supported`
      : `${name} authentication not supported`;
  return new WalcadeError(SQLSTATE.FEATURE_NOT_SUPPORTED, text, {
    hint: 'Use scram-sha-256, md5, password, cert or trust in pg_hba.conf of the upstream.',
  });
}

function violation(text: string, options: { detail?: string } = {}): WalcadeError {
  return new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, text, options);
}
