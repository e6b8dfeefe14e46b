/**
 * The keywords of libpq's connection strings, up to PostgreSQL 18 (fe-connect.c,
 * PQconninfoOptions), and the values of those that allow only certain words.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

export const KEYWORDS: ReadonlySet<string> = new Set(
  `service servicefile user password passfile channel_binding connect_timeout dbname host hostaddr
  port client_encoding options application_name fallback_application_name keepalives
  keepalives_idle keepalives_interval keepalives_count tcp_user_timeout sslmode sslnegotiation
  sslcompression sslcert sslkey sslcertmode sslpassword sslrootcert sslcrl sslcrldir sslsni
  requirepeer require_auth min_protocol_version max_protocol_version ssl_min_protocol_version
  ssl_max_protocol_version gssencmode krbsrvname gsslib gssdelegation replication
  target_session_attrs load_balance_hosts scram_client_key scram_server_key oauth_issuer
  oauth_client_id oauth_client_secret oauth_scope sslkeylogfile`.split(/\s+/),
);

/** What no log and no view may show. */
export const SECRET_KEYWORDS: ReadonlySet<string> = new Set([
  'password',
  'sslpassword',
  'scram_client_key',
  'scram_server_key',
  'oauth_client_secret',
]);

const TLS_VERSIONS = ['', 'TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'] as const;

export const CHOICES = {
  sslmode: ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'],
  sslnegotiation: ['postgres', 'direct'],
  sslcertmode: ['disable', 'allow', 'require'],
  ssl_min_protocol_version: TLS_VERSIONS,
  ssl_max_protocol_version: TLS_VERSIONS,
  channel_binding: ['disable', 'prefer', 'require'],
  gssencmode: ['disable', 'prefer', 'require'],
  min_protocol_version: ['3.0', '3.2', 'latest'],
  max_protocol_version: ['3.0', '3.2', 'latest'],
  target_session_attrs: ['any', 'read-write', 'read-only', 'primary', 'standby', 'prefer-standby'],
  load_balance_hosts: ['disable', 'random'],
} as const;

export type ChoiceKeyword = keyof typeof CHOICES;

const METHODS = ['password', 'md5', 'gss', 'sspi', 'scram-sha-256', 'oauth', 'none'];

/** Which methods the server may, or if `negated` may not, authenticate us by. */
export interface RequireAuth {
  readonly negated: boolean;
  readonly methods: readonly string[];
}

/** Reads require_auth; empty means undefined, any method. Throws 22023 as libpq refuses it. */
export function parseRequireAuth(text: string): RequireAuth | undefined {
  if (text === '') return undefined;
  const negated = text.startsWith('!');
  const methods: string[] = [];
  for (const item of text.split(',')) {
    const isNegative = item.startsWith('!');
    const method = isNegative ? item.slice(1) : item;
    if (isNegative && !negated) {
      throw invalid(
        `negative require_auth method "${item}" cannot be mixed with non-negative methods`,
      );
    }
    if (!isNegative && negated) {
      throw invalid(`require_auth method "${item}" cannot be mixed with negative methods`);
    }
    if (!METHODS.includes(method)) throw invalid(`invalid require_auth value: "${item}"`);
    if (methods.includes(method)) {
      throw invalid(`require_auth method "${item}" is specified more than once`);
    }
    methods.push(method);
  }
  return { negated, methods };
}

function invalid(message: string): WalcadeError {
  return new WalcadeError(SQLSTATE.INVALID_PARAMETER_VALUE, message);
}
