/** The benches there are, in the order in which they run and stand in docs/performance.md. */
import { fanOut } from './fan-out.ts';
import type { Bench } from './frame.ts';
import { hop } from './hop.ts';
import { ingest } from './ingest.ts';
import { link } from './link.ts';
import { live } from './live.ts';
import { memory } from './memory.ts';
import { promotion } from './promotion.ts';
import { sql } from './sql.ts';
import { start } from './start.ts';
import { sync } from './sync.ts';

export const BENCHES: readonly Bench[] = [
  fanOut,
  live,
  hop,
  sync,
  ingest,
  memory,
  start,
  promotion,
  link,
  sql,
];
