/**
 * Invariants: the first of the three kinds of failure, "we are wrong".
 *
 * A broken invariant crashes the process. Bytes from a peer, a disk or a person are never
 * asserted: they are parsed, and refused with a WalcadeError.
 */

export class AssertionFailed extends Error {
  override readonly name = 'AssertionFailed';
}

/** Throws AssertionFailed unless `condition` holds. `invariant` states it positively. */
export function assert(condition: boolean, invariant: string): asserts condition {
  if (!condition) throw new AssertionFailed(`invariant broken: ${invariant}`);
}
