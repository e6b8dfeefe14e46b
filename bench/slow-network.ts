/**
 * A network of its own that is reached over a link of limited rate: a network namespace, two ends
 * of a virtual cable, and a token bucket at the near one (ip and tc of iproute2, as root).
 *
 * It lives until `remove`. Who runs in it by `launcher` reaches this machine at `host`.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const execute = promisify(execFile);

export class SlowNetwork {
  readonly #name = `walcade${process.pid}`;
  readonly #near = `wc${process.pid}a`;
  readonly #far = `wc${process.pid}b`;
  readonly #subnet = `10.251.${process.pid % 250}`;

  private constructor() {}

  /** Makes the network; undefined where the user may not, or iproute2 is not there. */
  static async make({
    megabitsPerSecond,
  }: {
    megabitsPerSecond: number;
  }): Promise<SlowNetwork | undefined> {
    if (process.getuid?.() !== 0) return undefined;
    const network = new SlowNetwork();
    try {
      await network.#make(megabitsPerSecond);
      return network;
    } catch {
      await network.remove();
      return undefined;
    }
  }

  /** The address of this machine, as it is reached over the link. */
  get host(): string {
    return `${this.#subnet}.1`;
  }

  /** A rule of walcade_hba.conf that lets the network's machines in. */
  get hbaRule(): string {
    return `host replication all ${this.#subnet}.0/30 trust\n`;
  }

  get launcher(): readonly string[] {
    return ['ip', 'netns', 'exec', this.#name];
  }

  async #make(megabitsPerSecond: number): Promise<void> {
    const [inside, near, far] = [this.#name, this.#near, this.#far];
    await ip('netns', 'add', inside);
    await ip('link', 'add', near, 'type', 'veth', 'peer', 'name', far);
    await ip('link', 'set', far, 'netns', inside);
    await ip('address', 'add', `${this.host}/30`, 'dev', near);
    await ip('link', 'set', near, 'up');
    await ip('-n', inside, 'address', 'add', `${this.#subnet}.2/30`, 'dev', far);
    await ip('-n', inside, 'link', 'set', far, 'up');
    await ip('-n', inside, 'link', 'set', 'lo', 'up');
    const bucket = ['rate', `${megabitsPerSecond}mbit`, 'burst', '64kb', 'latency', '50ms'];
    await execute('tc', ['qdisc', 'add', 'dev', near, 'root', 'tbf', ...bucket]);
  }

  /** The cable's other end goes with the namespace; what is not there is no matter. */
  async remove(): Promise<void> {
    await ip('link', 'delete', this.#near).catch(() => {});
    await ip('netns', 'delete', this.#name).catch(() => {});
  }
}

function ip(...args: string[]): Promise<unknown> {
  return execute('ip', args);
}
