/**
 * The physical replication slots of this node's downstreams, one file each in pg_replslot.
 *
 * A persistent slot survives a restart; a temporary one lives as long as its session. WAL is
 * removed by what is on disk of them too (`claims`), so a crash never finds a slot whose restart
 * LSN is older than what was kept for it.
 */
import * as v from 'valibot';
import { Condition } from '../base/condition.ts';
import { type Disk, readWholeFile, removeIfThere, writeFileDurably } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { Serial } from '../base/serial.ts';
import { type Lsn, formatLsn, parseLsn } from '../wal/lsn.ts';

export interface ReplicationSlot {
  readonly name: string;
  readonly temporary: boolean;
  /** The oldest WAL that the slot's downstream may still need. */
  restartLsn: Lsn | undefined;
  /** What the downstream's hot standby feedback asks to be kept, as 64-bit xids; 0 is nothing. */
  xmin: bigint;
  catalogXmin: bigint;
  /** The process ID of the session that uses the slot. */
  activePid: number | undefined;
}

const xid = v.pipe(
  v.string(),
  v.regex(/^[0-9]+$/),
  v.transform((text) => BigInt(text)),
);

const slotSchema = v.object({
  restartLsn: v.optional(v.pipe(v.string(), v.transform(parseLsn))),
  xmin: xid,
  catalogXmin: xid,
});

export interface SlotsOptions {
  disk: Disk;
  directory: string;
  /** The most slots there may be; read anew each time a slot is made. */
  max: () => number;
}

export class ReplicationSlots {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #max: () => number;
  readonly #slots = new Map<string, ReplicationSlot>();
  /** What is on disk of each persistent slot. */
  readonly #saved = new Map<string, string>();
  readonly #writes = new Serial();
  readonly #released = new Condition();

  private constructor({ disk, directory, max }: SlotsOptions) {
    this.#disk = disk;
    this.#directory = directory;
    this.#max = max;
  }

  static async open(options: SlotsOptions): Promise<ReplicationSlots> {
    const slots = new ReplicationSlots(options);
    await slots.#load();
    return slots;
  }

  all(): ReplicationSlot[] {
    return [...this.#slots.values()];
  }

  find(name: string): ReplicationSlot | undefined {
    return this.#slots.get(name);
  }

  /** The slot; throws 42704 when there is none. */
  get(name: string): ReplicationSlot {
    const slot = this.#slots.get(name);
    if (slot !== undefined) return slot;
    throw new WalcadeError(SQLSTATE.UNDEFINED_OBJECT, `replication slot "${name}" does not exist`);
  }

  /** Makes a slot, durably if persistent. Throws 42710 if it is there, 53400 if none is free. */
  async create(
    name: string,
    { temporary, restartLsn, activePid }: Partial<ReplicationSlot> & { temporary: boolean },
  ): Promise<ReplicationSlot> {
    if (this.#slots.has(name)) {
      throw new WalcadeError(
        SQLSTATE.DUPLICATE_OBJECT,
        `replication slot "${name}" already exists`,
      );
    }
    if (this.#slots.size >= this.#max()) {
      throw new WalcadeError(
        SQLSTATE.CONFIGURATION_LIMIT_EXCEEDED,
        'all replication slots are in use',
        { hint: 'Free one or increase "max_replication_slots".' },
      );
    }
    const slot = { name, temporary, restartLsn, xmin: 0n, catalogXmin: 0n, activePid };
    this.#slots.set(name, slot);
    try {
      await this.#save(slot);
    } catch (error) {
      this.#slots.delete(name);
      throw error;
    }
    return slot;
  }

  /** Takes the slot for a session. Throws 42704 if there is none, 55006 if another has it. */
  acquire(name: string, pid: number): ReplicationSlot {
    const slot = this.get(name);
    if (isUsedByAnother(slot, pid)) throw slotInUse(slot);
    slot.activePid = pid;
    return slot;
  }

  release(slot: ReplicationSlot): void {
    slot.activePid = undefined;
    this.#released.notify();
  }

  /** Resolves once no session but `pid` uses the slot. Throws 42704 if there is none. */
  async waitUntilFree(name: string, pid: number, signal: AbortSignal): Promise<void> {
    while (isUsedByAnother(this.get(name), pid)) await this.#released.wait(signal);
  }

  /**
   * Drops a slot for the session `pid`, its own temporary one too (ReplicationSlotAcquire()).
   * Throws 42704 if there is none, 55006 if another session uses it.
   */
  async drop(name: string, pid: number): Promise<void> {
    const slot = this.get(name);
    if (isUsedByAnother(slot, pid)) throw slotInUse(slot);
    const { activePid } = slot;
    slot.activePid = pid;
    try {
      await this.#remove(slot);
    } finally {
      slot.activePid = activePid;
      this.#released.notify();
    }
  }

  /** Drops the temporary slots of a session that ends or has had an error. */
  dropTemporary(pid: number): void {
    for (const slot of this.#slots.values()) {
      if (slot.temporary && slot.activePid === pid) this.#slots.delete(slot.name);
    }
    this.#released.notify();
  }

  /**
   * The oldest WAL that each slot may need: where it stands, and where it would stand after a
   * crash, if that is further back.
   */
  claims(): Lsn[] {
    return this.all().flatMap((slot) => {
      const saved = this.#saved.get(slot.name);
      const positions = [slot, ...(saved === undefined ? [] : [parseSlot(slot.name, saved)])];
      return positions.flatMap(({ restartLsn }) => restartLsn ?? []);
    });
  }

  /** Writes every slot that has changed. */
  async saveAll(): Promise<void> {
    for (const slot of this.#slots.values()) await this.#save(slot);
  }

  #save(slot: ReplicationSlot): Promise<void> {
    return this.#writes.run(() => this.#saveNow(slot));
  }

  async #saveNow(slot: ReplicationSlot): Promise<void> {
    if (slot.temporary || this.#slots.get(slot.name) !== slot) return;
    const text = formatSlot(slot);
    if (this.#saved.get(slot.name) === text) return;
    await writeFileDurably(this.#disk, this.#path(slot.name), Buffer.from(text));
    this.#saved.set(slot.name, text);
  }

  /** The slot is there until its file is gone: what was said to be dropped never comes back. */
  async #remove(slot: ReplicationSlot): Promise<void> {
    if (!slot.temporary) {
      await this.#writes.run(async () => {
        await removeIfThere(this.#disk, this.#path(slot.name));
        this.#saved.delete(slot.name);
        await this.#disk.syncDirectory(this.#directory);
      });
    }
    this.#slots.delete(slot.name);
  }

  async #load(): Promise<void> {
    for (const file of await this.#disk.list(this.#directory)) {
      if (!file.endsWith('.json')) continue;
      const name = file.slice(0, -'.json'.length);
      const text = (await readWholeFile(this.#disk, this.#path(name))).toString();
      this.#slots.set(name, parseSlot(name, text));
      this.#saved.set(name, text);
    }
  }

  #path(name: string): string {
    return `${this.#directory}/${name}.json`;
  }
}

function isUsedByAnother({ activePid }: ReplicationSlot, pid: number): boolean {
  return activePid !== undefined && activePid !== pid;
}

function slotInUse({ name, activePid }: ReplicationSlot): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_IN_USE,
    `replication slot "${name}" is active for PID ${activePid}`,
  );
}

function formatSlot({ restartLsn, xmin, catalogXmin }: ReplicationSlot): string {
  return JSON.stringify({
    restartLsn: restartLsn === undefined ? undefined : formatLsn(restartLsn),
    xmin: xmin.toString(),
    catalogXmin: catalogXmin.toString(),
  });
}

function parseSlot(name: string, text: string): ReplicationSlot {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    json = undefined;
  }
  const parsed = v.safeParse(slotSchema, json);
  if (!parsed.success) {
    throw new WalcadeError(
      SQLSTATE.DATA_CORRUPTED,
      `state file of replication slot "${name}" is corrupted`,
      { hint: `Remove "pg_replslot/${name}.json" and make the slot anew.` },
    );
  }
  const { restartLsn, xmin, catalogXmin } = parsed.output;
  return { name, temporary: false, restartLsn, xmin, catalogXmin, activePid: undefined };
}
