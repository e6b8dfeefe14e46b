/**
 * A result as an SVG of bars: a panel for each unit, in it a group for each case and a bar for each
 * side, with a whisker over the range of its runs and a mark where its aim is. It has its own
 * ground, light or dark as the reader's system is, so that it is legible on any page.
 */
import type { BenchResult } from './frame.ts';
import { type Row, type Summary, format, rowsOf, sidesOf } from './summary.ts';

const WIDTH = 720;
const MARGIN = 20;
const LABEL_WIDTH = 190;
const VALUE_WIDTH = 90;
const BAR_HEIGHT = 14;
const BAR_GAP = 3;
const GROUP_GAP = 12;
const LEGEND_HEIGHT = 30;
const PANEL_TITLE_HEIGHT = 24;
const PANEL_GAP = 14;
const BARS_WIDTH = WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH;

/** Walcade's colour comes first; all of them stand out from a light and from a dark ground. */
const COLOURS = ['#2f81f7', '#d29922', '#8957e5', '#2da44e', '#cf5b53'];

const STYLE = `
  .ground { fill: #ffffff; stroke: #d0d7de }
  text { font: 12px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }
  text { fill: #1f2328 }
  .unit { font-weight: 600 }
  .value { fill: #59636e; font-size: 11px }
  .whisker { stroke: #1f2328; stroke-width: 1.2; fill: none }
  .aim { stroke: #cf222e; stroke-width: 2 }
  .axis { stroke: #d0d7de }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #3d444d }
    text { fill: #f0f6fc }
    .value { fill: #9198a1 }
    .whisker { stroke: #f0f6fc }
    .aim { stroke: #ff7b72 }
    .axis { stroke: #3d444d }
  }`;

export function plot(result: BenchResult): string {
  const sides = sidesOf(result);
  const colour = new Map(sides.map((side, i) => [side, COLOURS[i % COLOURS.length] ?? '#888888']));
  const parts: string[] = [legend(colour)];
  let top = MARGIN + LEGEND_HEIGHT;
  for (const rows of panels(rowsOf(result))) {
    parts.push(panel(rows, { top, colour }));
    top += panelHeight(rows) + PANEL_GAP;
  }
  const height = top - PANEL_GAP + MARGIN;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" ` +
      `width="${WIDTH}" height="${height}" role="img">`,
    `<title>${escape(`${result.name}: ${result.question}`)}</title>`,
    `<style>${STYLE}\n</style>`,
    `<rect class="ground" x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="6"/>`,
    ...parts,
    '</svg>\n',
  ].join('\n');
}

/** Rows of one unit share a scale. */
function panels(rows: readonly Row[]): Row[][] {
  const units = [...new Set(rows.map(({ unit }) => unit))];
  return units.map((unit) => rows.filter((row) => row.unit === unit));
}

function panelHeight(rows: readonly Row[]): number {
  const heights = rows.map(groupHeight);
  return PANEL_TITLE_HEIGHT + heights.reduce((sum, height) => sum + height + GROUP_GAP, 0);
}

function groupHeight({ cells }: Row): number {
  return cells.size * (BAR_HEIGHT + BAR_GAP) - BAR_GAP;
}

function legend(colour: ReadonlyMap<string, string>): string {
  let left = MARGIN;
  return [...colour]
    .map(([side, fill]) => {
      const at = left;
      left += 32 + side.length * 7;
      const box = `<rect x="${at}" y="${MARGIN}" width="12" height="12" rx="2" fill="${fill}"/>`;
      return `${box}<text x="${at + 18}" y="${MARGIN + 10.5}">${escape(side)}</text>`;
    })
    .concat(
      `<path class="aim" d="M${left + 4} ${MARGIN - 2}v16"/>`,
      `<text x="${left + 12}" y="${MARGIN + 10.5}">aim</text>`,
    )
    .join('\n');
}

function panel(
  rows: readonly Row[],
  { top, colour }: { top: number; colour: ReadonlyMap<string, string> },
): string {
  const most = Math.max(
    ...rows.flatMap(({ cells, verdicts }) => [
      ...[...cells.values()].map(({ high }) => high),
      ...verdicts.map(({ limit }) => limit),
    ]),
  );
  const scale = most > 0 ? BARS_WIDTH / most : 0;
  const zero = MARGIN + LABEL_WIDTH;
  const parts = [
    `<text class="unit" x="${MARGIN}" y="${top + 12}">${escape(rows[0]?.unit ?? '')}</text>`,
  ];
  let y = top + PANEL_TITLE_HEIGHT;
  const bottom = top + panelHeight(rows) - GROUP_GAP;
  for (const row of rows) {
    const middle = y + groupHeight(row) / 2 + 4;
    parts.push(`<text x="${zero - 10}" y="${middle}" text-anchor="end">${escape(row.what)}</text>`);
    for (const [side, cell] of row.cells) {
      parts.push(bar(cell, { zero, y, scale, fill: colour.get(side) ?? '#888888' }));
      for (const { limit } of row.verdicts.filter((verdict) => verdict.side === side)) {
        const x = (zero + limit * scale).toFixed(1);
        parts.push(`<path class="aim" d="M${x} ${y - 2}v${BAR_HEIGHT + 4}"/>`);
      }
      y += BAR_HEIGHT + BAR_GAP;
    }
    y += GROUP_GAP - BAR_GAP;
  }
  const axisTop = top + PANEL_TITLE_HEIGHT - 4;
  parts.push(`<path class="axis" d="M${zero} ${axisTop}V${bottom + 4}"/>`);
  return parts.join('\n');
}

/** Up to the median, with a whisker from the lowest to the highest run. */
function bar(
  { median, low, high }: Summary,
  { zero, y, scale, fill }: { zero: number; y: number; scale: number; fill: string },
): string {
  const x = (value: number): string => (zero + value * scale).toFixed(1);
  const middle = y + BAR_HEIGHT / 2;
  const width = Math.max(1, median * scale).toFixed(1);
  const whisker =
    `M${x(low)} ${middle}H${x(high)}` +
    [low, high].map((end) => `M${x(end)} ${middle - 4}V${middle + 4}`).join('');
  const textX = zero + high * scale + 8;
  return [
    `<rect x="${zero}" y="${y}" width="${width}" height="${BAR_HEIGHT}" rx="2" fill="${fill}"/>`,
    ...(low === high ? [] : [`<path class="whisker" d="${whisker}"/>`]),
    `<text class="value" x="${textX.toFixed(1)}" y="${y + 11}">${format(median)}</text>`,
  ].join('\n');
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
