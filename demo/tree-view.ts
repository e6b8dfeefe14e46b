/** The tree of servers as text: each below the one it receives WAL from. */
import { pc } from '../src/cli/colors.ts';

export interface ServerView {
  name: string;
  kind: string;
  port: number;
  /** As its sending server says; undefined for the primary. */
  state: string | undefined;
  /** How far it has come: a relay is what it has flushed, a standby what it has replayed. */
  position: string;
  downstreams: ServerView[];
}

const NAME_COLUMNS = 20;
const KIND_COLUMNS = 16;

/** One line a server, at most 80 columns. */
export function drawTree(server: ServerView): string {
  return draw(server, { lead: '', leadBelow: '' }).join('\n');
}

function draw(server: ServerView, { lead, leadBelow }: Record<'lead' | 'leadBelow', string>) {
  const { name, kind, port, state, position, downstreams } = server;
  const left = `${lead}${name}`.padEnd(NAME_COLUMNS);
  const facts = `${`port ${port}`.padEnd(12)}${kind.padEnd(KIND_COLUMNS)}`;
  const where = `${(state ?? '').padEnd(10)} ${position}`;
  const lines = [`${pc.dim(lead)}${pc.bold(left.slice(lead.length))}${facts}${pc.green(where)}`];
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
