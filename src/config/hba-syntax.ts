/**
 * The lines and tokens of pg_hba.conf (hba.c, tokenize_auth_file() and next_token()): fields
 * divided by blanks, each a comma-separated list of words.
 */

export interface HbaToken {
  readonly text: string;
  /** A word in double quotes is a name, never a keyword. */
  readonly isQuoted: boolean;
}

export interface HbaLine {
  readonly line: number;
  readonly fields: readonly (readonly HbaToken[])[];
}

/** The lines that hold something; one that ends in a backslash goes on in the next. */
export function scanHba(text: string): HbaLine[] {
  const found: HbaLine[] = [];
  const physical = text.split('\n').map((each) => each.replace(/\r$/, ''));
  for (let index = 0; index < physical.length; index++) {
    const line = index + 1;
    let logical = physical[index] ?? '';
    while (logical.endsWith('\\') && index + 1 < physical.length) {
      index++;
      logical = logical.slice(0, -1) + (physical[index] ?? '');
    }
    const fields = scanFields(logical);
    if (fields.length > 0) found.push({ line, fields });
  }
  return found;
}

function scanFields(line: string): HbaToken[][] {
  const fields: HbaToken[][] = [];
  let at = 0;
  let isListOpen = false;
  for (;;) {
    while (/[\s,]/.test(line.charAt(at)) && at < line.length) at++;
    if (at === line.length || line[at] === '#') return fields;
    const { token, end, comma } = scanToken(line, at);
    if (isListOpen) fields.at(-1)?.push(token);
    else fields.push([token]);
    isListOpen = comma;
    at = end;
  }
}

/** One word; quotes may begin and end inside it, and `""` in quotes is one quote. */
function scanToken(line: string, start: number): { token: HbaToken; end: number; comma: boolean } {
  const isQuoted = line[start] === '"';
  let text = '';
  let inQuote = false;
  let at = start;
  for (; at < line.length; at++) {
    const char = line.charAt(at);
    if (!inQuote && /[\s,#]/.test(char)) break;
    if (char !== '"') text += char;
    else if (inQuote && line[at + 1] === '"') {
      text += char;
      at++;
    } else inQuote = !inQuote;
  }
  return { token: { text, isQuoted }, end: at, comma: line[at] === ',' };
}
