/**
 * A front door in this process with a real server behind it, on a TCP port: what SQL through a node
 * is, without the rest of the node. It lives in a TestDirectory, which closes it with the test.
 */
import { parseHba } from '../../src/config/hba.ts';
import { type Listener, systemNetwork } from '../../src/protocol/network.ts';
import { MemoryNode } from './memory-node.ts';
import type { PostgresCluster } from './postgres-cluster.ts';
import type { Member, TestDirectory } from './test-directory.ts';
import { made } from './wal-walks.ts';

const HOST = '127.0.0.1';

export class SqlDoor implements Member {
  readonly name = 'front door';
  readonly port: number;
  readonly #node: MemoryNode;
  #listener: Listener | undefined;

  private constructor(node: MemoryNode, port: number) {
    this.#node = node;
    this.port = port;
  }

  /** Opens a door to `server`; by default its rules let everybody in. */
  static async open(
    tree: TestDirectory,
    { socketDirectory: host, port }: PostgresCluster,
    { hba = 'host all all all trust' }: { hba?: string } = {},
  ): Promise<SqlDoor> {
    const { wal } = made([{ bodyBytes: 500 }]);
    const node = await MemoryNode.open(wal, {
      server: { connect: (signal) => systemNetwork.connect({ host, port }, signal) },
      hbaRules: parseHba(hba, 'walcade_hba.conf'),
    });
    const door = tree.add(new SqlDoor(node, await tree.reservePort()));
    const accept: typeof node.door.accept = (socket, peer) => node.door.accept(socket, peer);
    const address = { host: HOST, port: door.port };
    door.#listener = await systemNetwork.listen(address, { accept, mode: 0 });
    return door;
  }

  async end(): Promise<void> {
    this.#listener?.close();
    await this.#node.close();
  }
}
