/**
 * `restore_command`: asks the archive for one file, as PostgreSQL does (xlogarchive.c,
 * RestoreArchivedFile()).
 *
 * The command copies it to a temporary name in pg_wal, where it is until whoever asked has used it.
 * That the archive has not got a file is an answer; that the command cannot do its work an error.
 */
import type { Clock } from '../base/clock.ts';
import { type Disk, type DiskFile, removeIfThere } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import { replacePercentPlaceholders } from '../base/percent-placeholders.ts';
import { WAL_DIRECTORY } from '../store/wal-store.ts';
import { type ProcessEnd, describeProcessEnd, isHardFailure } from './process-end.ts';
import { type ShellCommandOutcome, runShellCommand } from './shell-command.ts';

/** A file that the archive is asked for. */
export interface WantedFile {
  /** %f */
  name: string;
  /** Where it comes to, beside the WAL: no reader takes it for a file of the store. */
  temporaryName: 'RECOVERYXLOG' | 'RECOVERYHISTORY';
  /** If given, exactly so many bytes; one with fewer is still being copied to the archive. */
  sizeBytes?: number;
  /** %r: the oldest segment that is still needed of the archive. */
  oldestNeeded: string;
}

/** What was made of the file, or why it is not there: words of the command's or on its end. */
export type RestoreOutcome<T> = { kind: 'restored'; result: T } | { kind: 'missing'; why: string };

export interface RestoreCommandOptions {
  disk: Disk;
  clock: Clock;
  /** The node's, where the command runs. */
  directory: string;
  /** The parameter, as it is now. */
  command: () => string;
}

/** What an archive can be asked. */
export interface Archive {
  restore<T>(
    wanted: WantedFile,
    use: (file: DiskFile) => Promise<T>,
    signal: AbortSignal,
  ): Promise<RestoreOutcome<T>>;
}

export class RestoreCommand implements Archive {
  readonly #options: RestoreCommandOptions;

  constructor(options: RestoreCommandOptions) {
    this.#options = options;
  }

  /**
   * Gives what `use` makes of the file, which is removed afterwards. Throws 38000 when the command
   * could not do its work, XX001 for a file that is too large, what `use` throws, or the signal's
   * reason.
   */
  async restore<T>(
    wanted: WantedFile,
    use: (file: DiskFile) => Promise<T>,
    signal: AbortSignal,
  ): Promise<RestoreOutcome<T>> {
    const shownPath = `${WAL_DIRECTORY}/${wanted.temporaryName}`;
    // What a crash has left there is no answer to this question.
    await this.#remove(shownPath);
    try {
      const { end, output } = await this.#run(wanted, shownPath, signal);
      if (isHardFailure(end)) throw couldNotRestore(wanted, { end, output });
      if (end.code !== 0) return { kind: 'missing', why: output || describeProcessEnd(end) };
      const file = await this.#open(shownPath);
      if (file === undefined) return { kind: 'missing', why: output || NOTHING_BROUGHT };
      try {
        const why = checkSize(wanted, await file.sizeBytes());
        if (why !== undefined) return { kind: 'missing', why };
        return { kind: 'restored', result: await use(file) };
      } finally {
        await file.close();
      }
    } finally {
      await this.#remove(shownPath);
    }
  }

  async #run(
    { name, oldestNeeded }: WantedFile,
    shownPath: string,
    signal: AbortSignal,
  ): Promise<ShellCommandOutcome> {
    const values = { f: name, p: shownPath, r: oldestNeeded };
    const text = replacePercentPlaceholders('restore_command', this.#options.command(), values);
    try {
      return await runShellCommand(text, this.#options, signal);
    } catch (error) {
      signal.throwIfAborted();
      throw new WalcadeError(
        SQLSTATE.EXTERNAL_ROUTINE_EXCEPTION,
        `could not run restore_command: ${describeSystemError(error)}`,
        { cause: error },
      );
    }
  }

  #open(shownPath: string): Promise<DiskFile | undefined> {
    const { disk, directory } = this.#options;
    return accessing('open file', shownPath, () =>
      ifThere(disk.open(`${directory}/${shownPath}`, 'read')),
    );
  }

  #remove(shownPath: string): Promise<void> {
    const { disk, directory } = this.#options;
    return accessing('remove file', shownPath, () =>
      removeIfThere(disk, `${directory}/${shownPath}`),
    );
  }
}

const NOTHING_BROUGHT = 'restore_command returned a zero exit status, but there is no file';

function couldNotRestore(
  { name }: WantedFile,
  { end, output }: { end: ProcessEnd; output: string },
): WalcadeError {
  return new WalcadeError(
    SQLSTATE.EXTERNAL_ROUTINE_EXCEPTION,
    `could not restore file "${name}" from archive: ${describeProcessEnd(end)}`,
    {
      detail: output === '' ? undefined : `It has written: ${output}`,
      hint: 'Check restore_command: a file that the archive has not got is exit status 1 to 125.',
    },
  );
}

/** Why the file is not whole yet; throws XX001 for one that can never be what was wanted. */
function checkSize({ name, sizeBytes }: WantedFile, actual: number): string | undefined {
  if (sizeBytes === undefined || actual === sizeBytes) return undefined;
  const message = `archive file "${name}" has wrong size: ${actual} instead of ${sizeBytes}`;
  if (actual > sizeBytes) throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, message);
  return message;
}
