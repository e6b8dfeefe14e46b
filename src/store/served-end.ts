/** How far WAL may be served: a pure rule. */
import { type Lsn, alignDown, maxLsn } from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';

/**
 * How far what is written up to `written` may be served, if all was proven up to `proven` now and
 * up to `provenBefore` when the write began. Where more was proven than is written, the end of what
 * is written may be inside a record: there is no cut in one but at a page boundary.
 */
export function servedEnd(
  written: Lsn,
  { proven, provenBefore }: { proven: Lsn; provenBefore: Lsn },
): Lsn {
  if (proven <= written) return proven;
  const pageBoundary = alignDown(written, PAGE_BYTES);
  return provenBefore > written ? pageBoundary : maxLsn(provenBefore, pageBoundary);
}
