/** WAL that is not what it should be: the world is wrong, so it is refused, with its LSN. */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { Lsn } from './lsn.ts';

/** The texts are those of xlogreader.c. */
export class WalCorruption extends WalcadeError {
  /** The page or the record that is wrong. */
  readonly lsn: Lsn;

  constructor(position: Lsn, message: string) {
    super(SQLSTATE.DATA_CORRUPTED, message);
    this.lsn = position;
  }
}
