/** Text that others wrote, made fit for one line of a terminal or of a message. */

/** What moves a cursor, changes colours or the direction of writing, or is no character at all. */
const UNPRINTABLE = /[\p{Zl}\p{Zp}\p{C}]/gu;

/** `text` with white space between words as one space each, and `?` for what is not printable. */
export function plainText(text: string): string {
  return text.replace(/\s+/g, ' ').trim().replace(UNPRINTABLE, '?');
}

/** `text` as `plainText` gives it, cut to `columns` characters with an ellipsis at their end. */
export function plainTextUpTo(columns: number, text: string): string {
  const characters = Array.from(plainText(text));
  if (characters.length <= columns) return characters.join('');
  return `${characters.slice(0, columns - 3).join('')}...`;
}
