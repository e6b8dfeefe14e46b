/** Loops of one node and more, by the identities above an upstream. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkUpstreamPath } from './upstream-path.ts';

const THIS = { nodeId: 'this', address: 'db2:5432' };
const CLOSES = 'Following it would close a loop that no primary feeds.';

const LOOPS: [says: string, path: string[], message: string, detail: string][] = [
  [
    'of one node',
    ['this', 'this'],
    'upstream db2:5432 is this node itself',
    'There is nothing that it could receive from itself.',
  ],
  ['of two nodes', ['b', 'this', 'b'], 'upstream db2:5432 receives its WAL from this node', CLOSES],
  [
    'of three nodes',
    ['b', 'c', 'this'],
    'upstream db2:5432 receives its WAL from this node',
    `It does so through one other node. ${CLOSES}`,
  ],
  [
    'of four nodes',
    ['b', 'c', 'd', 'this'],
    'upstream db2:5432 receives its WAL from this node',
    `It does so through 2 other nodes. ${CLOSES}`,
  ],
];

for (const [says, path, message, detail] of LOOPS) {
  test(`a loop ${says} is refused`, () => {
    assert.throws(() => checkUpstreamPath(path, THIS), { sqlstate: '55000', message, detail });
  });
}

test('an upstream that is not below the node is followed', () => {
  checkUpstreamPath([], THIS);
  checkUpstreamPath(['b', 'c'], THIS);
});
