/** What a person sees: sizes, tables and facts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import { lsn, timelineId } from '../wal/lsn.ts';
import { describeNode } from './init-command.ts';
import { formatFacts, formatTable } from './terminal.ts';

const plain = (text: string): string => stripVTControlCharacters(text);

test('a table is as wide as its widest cells, without blanks at line ends', () => {
  const table = plain(
    formatTable(
      ['slot', 'state'],
      [
        ['a_long_name', 'active'],
        ['b', '-'],
      ],
    ),
  );
  assert.equal(table, 'slot         state\na_long_name  active\nb            -');
});

test('facts stand under each other', () => {
  assert.equal(
    formatFacts([
      ['node', 'relay'],
      ['upstream', 'primary'],
    ]),
    'node      relay\nupstream  primary\n',
  );
});

test('init says what it found, what it made, and how to start it', () => {
  const start = lsn(0x1000000n);
  const identity = {
    systemIdentifier: 7711370198089870397n,
    timeline: timelineId(1),
    walEnd: start,
  };
  const store = { start, timeline: identity.timeline };
  const upstream = {
    identity,
    settings: {},
    serverVersion: '18.4',
    versionNum: 180_004,
    major: 18,
    segmentBytes: 0x1000000,
    role: 'primary' as const,
  };
  const made = { name: 'relay', slot: undefined, upstream, built: { store } };
  const options = { directory: '/srv/relay', port: '5433' };
  assert.equal(
    describeNode(made, options),
    `upstream  primary, PostgreSQL 18.4, timeline 1
system    7711370198089870397
slot      none: nothing holds WAL for this node
node      relay in /srv/relay, port 5433
WAL from  0/1000000

Start it with:

    walcade start -D /srv/relay
`,
  );
});
