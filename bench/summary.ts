/** The median and the range of values, each with three significant digits. */
export function summary(values: readonly number[]): { median: string; low: string; high: string } {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const show = (value: number): string => `${Number(value.toPrecision(3))}`;
  return {
    median: show(middle),
    low: show(sorted[0] ?? Number.NaN),
    high: show(sorted.at(-1) ?? Number.NaN),
  };
}
