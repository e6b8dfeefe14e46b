/**
 * Cuts what a server writes to its log into whole lines, however the pipe has cut it: in the middle
 * of a line, of a character.
 */
import { StringDecoder } from 'node:string_decoder';

/** A longer line is handed on in pieces: it may be one statement of hundreds of megabytes. */
const LINE_LENGTH_MAX = 1024 * 1024;

export class LogLines {
  readonly #decoder = new StringDecoder('utf8');
  #rest = '';

  /** The lines that `chunk` completes, each with its newline; empty if there are none. */
  push(chunk: Buffer): string {
    const text = this.#decoder.write(chunk);
    const end = text.lastIndexOf('\n') + 1;
    if (end > 0) return this.#take(text.slice(end), text.slice(0, end));
    return this.#rest.length < LINE_LENGTH_MAX ? this.#keep(text) : this.#take('', text);
  }

  /** What is left when the pipe has ended, as a line; empty if nothing is. */
  end(): string {
    const last = this.#take('', this.#decoder.end());
    return last === '' ? '' : `${last}\n`;
  }

  #keep(text: string): string {
    this.#rest += text;
    return '';
  }

  #take(rest: string, text: string): string {
    const taken = this.#rest + text;
    this.#rest = rest;
    return taken;
  }
}
