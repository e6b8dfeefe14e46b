/**
 * Colours for people at a terminal. What is piped or kept has none, whatever the environment is
 * (picocolors alone would colour everything where CI is set); NO_COLOR is heeded.
 */
import picocolors from 'picocolors';

function colorsFor({ isTTY }: { isTTY?: boolean }): ReturnType<typeof picocolors.createColors> {
  const { NO_COLOR: noColor = '', TERM: terminal } = process.env;
  return picocolors.createColors(isTTY === true && noColor === '' && terminal !== 'dumb');
}

/** For what is printed on standard output. */
export const pc = colorsFor(process.stdout);

/** For what is printed on standard error. */
export const pcError = colorsFor(process.stderr);
