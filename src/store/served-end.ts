/** How far WAL may be served: a pure rule. */
import { type Lsn, alignDown, maxLsn, minLsn } from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';

/**
 * How far what is written up to `written` may be served, if all was proven up to `proven` now and
 * up to `provenBefore` when the write began. More may have been proven meanwhile than was written:
 * no cut inside a record but at a page boundary.
 */
export function servedEnd(
  written: Lsn,
  { proven, provenBefore }: { proven: Lsn; provenBefore: Lsn },
): Lsn {
  if (proven <= written) return proven;
  return maxLsn(minLsn(provenBefore, written), alignDown(written, PAGE_BYTES));
}
