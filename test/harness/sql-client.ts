/**
 * SQL for tests: a few connections to one database of one server, over its socket.
 *
 * Values come as PostgreSQL's own text, rows as lines: what a test compares is what psql shows.
 */
import { Pool, type QueryArrayConfig, type QueryArrayResult } from 'pg';

const CONNECTIONS_MAX = 4;

export class SqlClient {
  readonly #pool: Pool;

  private constructor(pool: Pool) {
    this.#pool = pool;
    // An idle connection that breaks is no news: the test stops its servers in many ways.
    pool.on('error', () => {});
  }

  static pooled(socketDirectory: string, port: number, database = 'postgres'): SqlClient {
    return new SqlClient(makePool({ socketDirectory, port, database, max: CONNECTIONS_MAX }));
  }

  /** A client whose statements all run in the same session, as a transaction needs it. */
  static async single(
    socketDirectory: string,
    port: number,
    database = 'postgres',
  ): Promise<SqlClient> {
    const client = new SqlClient(makePool({ socketDirectory, port, database, max: 1 }));
    await client.run('SELECT 1', []);
    return client;
  }

  /** The rows of the last statement that has any, as `psql -At` prints them. */
  async run(text: string, params: readonly unknown[] = []): Promise<string> {
    return (await this.rows(text, params))
      .map((row) => row.map((value) => value ?? '').join('|'))
      .join('\n');
  }

  /** The rows of the last statement that has any, values as text. */
  async rows(text: string, params: readonly unknown[] = []): Promise<(string | null)[][]> {
    const answer: unknown = await this.#pool.query({
      text,
      ...(params.length > 0 ? { values: [...params] } : {}),
      rowMode: 'array',
      types: { getTypeParser: () => (value: string) => value },
    } as QueryArrayConfig);
    const results = (Array.isArray(answer) ? answer : [answer]) as QueryArrayResult[];
    const last = results.findLast(({ fields }) => fields.length > 0);
    return (last?.rows ?? []) as (string | null)[][];
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }
}

interface PoolOptions {
  socketDirectory: string;
  port: number;
  database: string;
  max: number;
}

function makePool({ socketDirectory, port, database, max }: PoolOptions): Pool {
  return new Pool({
    host: socketDirectory,
    port,
    database,
    max,
    user: 'postgres',
    application_name: 'test',
    connectionTimeoutMillis: 30_000,
    idleTimeoutMillis: 0,
  });
}

/**
 * A text of all user tables of the database: a line each with its name, number of rows and a
 * hash of the rows in the order of their text. Equal texts mean equal contents.
 */
export async function dumpDatabase(client: SqlClient): Promise<string> {
  await client.run('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
  const tables = await client.rows(
    `SELECT format('%I.%I', n.nspname, c.relname)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p'
        AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
      ORDER BY 1`,
  );
  const lines: string[] = [];
  for (const [table] of tables) {
    const content = await client.run(
      `SELECT count(*), md5(string_agg(line, E'\\n' ORDER BY line COLLATE "C"))
         FROM (SELECT t::text AS line FROM ${table} t) AS lines`,
    );
    lines.push(`${table}|${content}`);
  }
  await client.run('COMMIT');
  return lines.join('\n');
}
