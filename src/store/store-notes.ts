/**
 * What the store notes of itself in the control file while it runs: how far WAL is durable, and
 * from where the next start walks. It lives as long as the store.
 *
 *   flushed never goes back but by `goBack`, and is not noted past it until `wentBack`
 */
import { type Lsn, maxLsn, minLsn } from '../wal/lsn.ts';
import type { ControlChange, ControlData, ControlFile } from './control-file.ts';
import type { DiskGuard } from './disk-guard.ts';

export class StoreNotes {
  readonly #control: ControlFile;
  readonly #disk: DiskGuard;
  /** Where the store goes back to: what lies behind may be gone. */
  #limit: Lsn | undefined;

  constructor(control: ControlFile, disk: DiskGuard) {
    this.#control = control;
    this.#disk = disk;
  }

  get data(): Readonly<ControlData> {
    return this.#control.data;
  }

  /** Notes that all before `flushed()` is durable, and `changes()`; both are asked when due. */
  async flushed(flushed: () => Lsn, changes?: () => Partial<ControlData>): Promise<void> {
    await this.change((data) => {
      if (this.#limit === undefined) {
        return { ...changes?.(), flushed: maxLsn(data.flushed, flushed()) };
      }
      return { flushed: maxLsn(data.flushed, minLsn(flushed(), this.#limit)) };
    });
  }

  /** Notes that the store goes back to `target`, with what else `change` says of it. */
  async goBack(target: Lsn, change: ControlChange): Promise<void> {
    this.#limit = target;
    await this.change(change);
  }

  /** The store has gone back. */
  wentBack(): void {
    this.#limit = undefined;
  }

  change(change: ControlChange): Promise<void> {
    return this.#disk.durably(() => this.#control.update(change));
  }
}
