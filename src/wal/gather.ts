/** Parts of WAL that come in pieces and are looked at as a whole: headers, mostly. */

/**
 * Copies into `part`, after the `gathered` bytes that it has, what fits of `view` from `from` to
 * `to`; returns how many bytes that were. They are few, so a loop is faster than a call to set().
 */
export function gather(
  part: DataView,
  gathered: number,
  view: DataView,
  from: number,
  to: number,
): number {
  const bytes = Math.min(part.byteLength - gathered, to - from);
  for (let i = 0; i < bytes; i++) part.setUint8(gathered + i, view.getUint8(from + i));
  return bytes;
}
