/** What the demo prints: commands as they are run, and a line for each step that held. */
import { pc } from '../src/cli/colors.ts';

const COLUMNS = 80;
const LABEL_COLUMNS = 66;
const FIGURE_COLUMNS = 10;

export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Runs a step of the story and prints `what` with its time; prints nothing if it fails. */
export async function step<T>(what: string, action: () => Promise<T>): Promise<T> {
  const startedMs = performance.now();
  const result = await action();
  report(what, `${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
  return result;
}

/** Prints what holds, and the time that it took if that says something. */
export function report(what: string, figure?: string): void {
  const time = figure === undefined ? '' : pc.dim(figure.padStart(FIGURE_COLUMNS));
  say(`${pc.green('✓')} ${figure === undefined ? what : what.padEnd(LABEL_COLUMNS)}${time}`);
}

/** Prints a command as one would type it, over as many lines as it needs. */
export function showCommand(words: readonly string[]): void {
  let text = '';
  let line = '  $';
  for (const word of words.map(quote)) {
    if (line.length + word.length + 3 > COLUMNS) {
      text += `${line} \\\n`;
      line = '     ';
    }
    line += ` ${word}`;
  }
  say(pc.dim(text + line));
}

/** Prints SQL that is run on a server, as psql with the server's name for a prompt would. */
export function showSql(server: string, sql: string): void {
  say(pc.dim(`  ${server}=# ${sql}`));
}

/** Prints an edit of a file: the settings that go, and those that come. */
export function showEdit(file: string, edits: readonly { before?: string; after: string }[]): void {
  showCommand(['vi', file]);
  for (const { before, after } of edits) {
    if (before !== undefined) say(pc.dim(`      ${pc.red(`- ${before}`)}`));
    say(pc.dim(`      ${pc.green(`+ ${after}`)}`));
  }
}

function quote(word: string): string {
  return /^[\w./=:-]+$/.test(word) ? word : `'${word}'`;
}
