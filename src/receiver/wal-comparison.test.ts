/** The stored WAL of one store in memory compared with what a node in memory sends. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { MemoryNode } from '../../test/harness/memory-node.ts';
import { ManualClock } from '../../test/harness/manual-clock.ts';
import { StoreUnderTest, newNodeDisk } from '../../test/harness/test-store.ts';
import { START, made } from '../../test/harness/wal-walks.ts';
import { ReplicationClient, singleValue } from '../protocol/client.ts';
import { type Lsn, advance, lsn, timelineId } from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import { findDifference, firstDifference } from './wal-comparison.ts';

const ONE = timelineId(1);
const RECORDS = 200;
const OWN = walThatPartsAt(RECORDS);

/** Records of 1000 bytes, those from number `index` on others than in OWN. */
function walThatPartsAt(index: number): { wal: Buffer; partsAt: Lsn } {
  const bodies = Array.from({ length: RECORDS }, (_, i) =>
    Buffer.alloc(1000, i < index ? i : `other ${i}`),
  );
  const { wal, records } = made(bodies.map((body) => ({ body })));
  return { wal, partsAt: records[index]?.start ?? advance(START, wal.length) };
}

interface Pair {
  store: StoreUnderTest['store'];
  client: ReplicationClient;
}

/** A store with OWN, and a connection to a node that has `theirs`. */
async function pair(t: TestContext, theirs: Buffer): Promise<Pair> {
  const own = await StoreUnderTest.open(await newNodeDisk());
  await own.appendDurably(OWN.wal);
  const upstream = await MemoryNode.open(theirs);
  t.after(async () => {
    await upstream.close();
    await own.stop();
  });
  const client = await ReplicationClient.connect({
    network: {
      connect: () => Promise.resolve(upstream.connect()),
      listen: () => Promise.reject(new Error('nobody listens here')),
      resolve: () => Promise.reject(new Error('nobody asks for names here')),
    },
    clock: new ManualClock(),
    addresses: [{ host: 'upstream', port: 5432 }],
    user: 'postgres',
    password: () => undefined,
    allowsAuthentication: () => true,
    sessionAttributes: 'any',
    parameters: { replication: 'true' },
    connectTimeoutMs: 0,
    signal: new AbortController().signal,
  });
  t.after(() => client.close());
  return { store: own.store, client };
}

function compare({ client, store }: Pair): Promise<Lsn | undefined> {
  return findDifference(client, store, {
    timeline: ONE,
    end: store.served.value,
    walEnd: store.served.value,
  });
}

test('WAL that is the same does not differ, and the connection can be asked further', async (t) => {
  const both = await pair(t, OWN.wal);
  assert.equal(await compare(both), undefined);
  assert.equal(await compare(both), undefined);
  assert.equal(singleValue(await both.client.query('IDENTIFY_SYSTEM'), 1), '1');
});

test('an upstream that has more is compared with what is stored', async (t) => {
  const records = Array.from({ length: RECORDS }, (_, i) => ({ body: Buffer.alloc(1000, i) }));
  const { wal } = made([...records, { bodyBytes: 300_000 }]);
  assert.equal(await compare(await pair(t, wal)), undefined);
});

for (const index of [0, 1, 7, 8, 50, 100, 101, RECORDS - 8, RECORDS - 1]) {
  test(`where WAL differs from record ${index} on is found`, async (t) => {
    const { wal, partsAt } = walThatPartsAt(index);
    const both = await pair(t, wal);
    const found = await compare(both);
    // A record's CRC is the first that differs: within its header of 24 bytes, or on the next page.
    assert.ok(found !== undefined && found >= partsAt && found < partsAt + 48n, String(found));
    assert.equal(singleValue(await both.client.query('IDENTIFY_SYSTEM'), 1), '1');
  });
}

test('of a range without a byte it is found out whether the upstream can send there', async (t) => {
  const both = await pair(t, OWN.wal);
  const { client, store } = both;
  const empty = (at: Lsn) => ({ timeline: ONE, start: at, end: at });
  assert.equal(await firstDifference(client, store, empty(START)), undefined);
  const gone = lsn(BigInt(START) - BigInt(PAGE_BYTES));
  await assert.rejects(firstDifference(client, store, empty(gone)), /upstream/);
});
