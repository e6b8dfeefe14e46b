/** The tree of servers as text: each below the one it receives WAL from, with its parts. */
import { pc } from '../src/cli/colors.ts';

export interface ServerView {
  name: string;
  port: number;
  program: string;
  parts: PartView[];
  downstreams: ServerView[];
}

/** What a server has running, as a line of `ps` would show it. */
export interface PartView {
  what: string;
  state: string;
  position: string;
}

const NAME_COLUMNS = 16;
const PART_COLUMNS = 44;
const STATE_COLUMNS = 9;

/** One line a server and one a part of it, at most 80 columns. */
export function drawTree(server: ServerView): string {
  return draw(server, { lead: '', leadBelow: '' }).join('\n');
}

function draw(server: ServerView, { lead, leadBelow }: Record<'lead' | 'leadBelow', string>) {
  const { name, port, program, parts, downstreams } = server;
  const label = name.padEnd(NAME_COLUMNS - lead.length);
  const lines = [`${pc.dim(lead)}${pc.bold(label)}${`port ${port}`.padEnd(12)}${program}`];
  const partLead = `${leadBelow}${downstreams.length > 0 ? '│' : ' '}    `;
  for (const { what, state, position } of parts) {
    const left = what.padEnd(PART_COLUMNS - partLead.length);
    lines.push(
      `${pc.dim(partLead)}${left}${pc.green(`${state.padEnd(STATE_COLUMNS)} ${position}`)}`,
    );
  }
  for (const [index, downstream] of downstreams.entries()) {
    const isLast = index === downstreams.length - 1;
    lines.push(
      ...draw(downstream, {
        lead: `${leadBelow}${isLast ? '└─ ' : '├─ '}`,
        leadBelow: `${leadBelow}${isLast ? '   ' : '│  '}`,
      }),
    );
  }
  return lines;
}
