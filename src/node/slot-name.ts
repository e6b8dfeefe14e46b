/** The name of the slot that a node has on its upstream, if nobody chose another: after its own. */

/** A node's name may hold what a slot's name may not. */
export function slotNameOf(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9_]/g, '_');
}
