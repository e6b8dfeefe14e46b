/** The placeholders of commands that a parameter holds: `%f`, `%p` and their like. */
import { SQLSTATE, WalcadeError } from './errors.ts';

/**
 * `text` with each `%` and letter of `values` replaced, and `%%` by a `%` (percentrepl.c,
 * replace_percent_placeholders()). Throws 22023 in the name of `parameter` for any other letter.
 */
export function replacePercentPlaceholders(
  parameter: string,
  text: string,
  values: Readonly<Record<string, string>>,
): string {
  const invalid = (detail: string): WalcadeError =>
    new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `invalid value for parameter "${parameter}": "${text}"`,
      { detail },
    );
  return text.replace(/%(.?)/gsu, (_, letter: string) => {
    if (letter === '%') return '%';
    if (letter === '') throw invalid('String ends unexpectedly after escape character "%".');
    const value = values[letter];
    if (value === undefined) {
      throw invalid(`String contains unexpected placeholder "%${letter}".`);
    }
    return value;
  });
}
