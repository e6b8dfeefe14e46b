/** The ports of the demo's servers, and which of them somebody else has. */
import { connect } from 'node:net';

/** Where nodes put their Unix sockets. */
export const SOCKET_DIRECTORIES = ['/tmp', '/var/run/postgresql'];

/** Those of `ports` on which somebody listens, over TCP or on the usual Unix sockets. */
export async function takenPorts(ports: readonly number[]): Promise<number[]> {
  const answers = await Promise.all(ports.map(isTaken));
  return ports.filter((_, index) => answers[index]);
}

async function isTaken(port: number): Promise<boolean> {
  const places = [
    { host: '127.0.0.1', port },
    ...SOCKET_DIRECTORIES.map((directory) => ({ path: `${directory}/.s.PGSQL.${port}` })),
  ];
  return (await Promise.all(places.map(isAnswered))).includes(true);
}

/** Somebody listens if a connection is accepted, and may if it is neither accepted nor refused. */
function isAnswered(place: { host: string; port: number } | { path: string }): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(place);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', ({ code = '' }: NodeJS.ErrnoException) => {
      resolve(!['ECONNREFUSED', 'ENOENT'].includes(code));
    });
  });
}
