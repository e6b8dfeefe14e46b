/** By which file a node's directory is known; to look for it does not need what reads it. */
export const CONTROL_FILE = 'walcade.control';
