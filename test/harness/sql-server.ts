/**
 * A server of a test that answers SQL: a PostgreSQL server over its socket, or a node with an
 * attached one over its port. What can be asked of either is here.
 */
import { formatLsn, type Lsn, parseLsn } from '../../src/wal/lsn.ts';
import { SqlClient, dumpDatabase } from './sql-client.ts';
import { type WaitOptions, waitFor, waitForValue } from './wait.ts';

export abstract class SqlServer {
  abstract readonly name: string;
  abstract readonly port: number;
  #client: SqlClient | undefined;

  /** A host, or a socket's directory. */
  protected abstract get sqlHost(): string;

  /**
   * Runs SQL in database `postgres` and gives what `psql -At` would print: rows on lines, values
   * joined by `|`, null as nothing.
   */
  async sql(text: string, params: readonly unknown[] = []): Promise<string> {
    this.#client ??= SqlClient.pooled(this.sqlHost, this.port);
    return this.#client.run(text, params);
  }

  /** As `sql`, in another database and on a connection of its own. */
  async query(database: string, text: string): Promise<string> {
    const client = SqlClient.pooled(this.sqlHost, this.port, database);
    try {
      return await client.run(text, []);
    } finally {
      await client.close();
    }
  }

  async waitForSql(text: string, expected: string, options: WaitOptions = {}): Promise<void> {
    await waitForValue(`${text} on ${this.name}`, expected, () => this.sql(text), options);
  }

  /** Where WAL has been written (primary) or replayed (standby). */
  async currentLsn(): Promise<Lsn> {
    const position = await this.sql(
      `SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
              ELSE pg_current_wal_lsn() END`,
    );
    return parseLsn(position);
  }

  async replayLsn(): Promise<Lsn> {
    return parseLsn(await this.sql('SELECT pg_last_wal_replay_lsn()'));
  }

  /** Waits until this standby has replayed `position`, if not given that of `upstream` now. */
  async waitForReplay(position: Lsn, options: WaitOptions = {}): Promise<void> {
    const question = `SELECT coalesce(pg_last_wal_replay_lsn(), '0/0')`;
    let replayed = '';
    await waitFor(
      `${this.name} to replay ${formatLsn(position)}`,
      async () => {
        replayed = await this.sql(question);
        return parseLsn(replayed) >= position;
      },
      options,
    ).catch((error: Error) => {
      throw new Error(`${error.message}; replayed ${replayed}`, { cause: error });
    });
  }

  /** Waits until this standby has replayed all that `upstream` has at the time of the call. */
  async waitForCatchup(upstream: SqlServer, options: WaitOptions = {}): Promise<void> {
    await this.waitForReplay(await upstream.currentLsn(), options);
  }

  /** Every user table of `database`, by content: two members with equal dumps hold the same. */
  async dump(database = 'postgres'): Promise<string> {
    const client = await SqlClient.single(this.sqlHost, this.port, database);
    try {
      return await dumpDatabase(client);
    } finally {
      await client.close();
    }
  }

  /** Ends the connections for SQL, before the server does. */
  protected async closeSql(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    await client?.close();
  }
}
