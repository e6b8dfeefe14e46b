/** Standbys past a fork: told once, remembered for as long as they come back. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseLsn, timelineId } from '../wal/lsn.ts';
import { DivergedDownstreams, divergenceOf } from './diverged-downstreams.ts';

const STANDBY = {
  applicationName: 'standby',
  user: 'postgres',
  peer: { transport: 'tcp', address: '10.0.0.7', port: 4711, localAddress: '10.0.0.1' },
  isAttached: false,
  position: parseLsn('0/5000100'),
  timeline: timelineId(1),
  switchPoint: parseLsn('0/4000000'),
  leftTimeline: timelineId(1),
} as const;

// A client that asked at one position after the other, each past a fork, filled the log.
test('one that comes back is news only past another fork, or on another timeline', () => {
  const diverged = new DivergedDownstreams();
  assert.equal(diverged.note(STANDBY, 0), true);
  const again = { ...STANDBY, peer: { ...STANDBY.peer, port: 4712 } };
  assert.equal(diverged.note(again, 5_000), false);
  assert.equal(diverged.note({ ...again, position: parseLsn('0/5000200') }, 10_000), false);
  assert.equal(diverged.all(10_000)[0]?.position, parseLsn('0/5000200'));
  assert.equal(diverged.note({ ...again, switchPoint: parseLsn('0/4000200') }, 10_000), true);
  assert.equal(diverged.note({ ...again, timeline: timelineId(2) }, 10_000), true);
  assert.equal(diverged.all(10_000).length, 1);
});

test('one that has not come back for a minute is forgotten', () => {
  const diverged = new DivergedDownstreams();
  diverged.note(STANDBY, 0);
  diverged.note({ ...STANDBY, applicationName: 'other' }, 30_000);
  assert.equal(diverged.all(60_000).length, 2);
  const [left] = diverged.all(60_001);
  assert.equal(left?.applicationName, 'other');
});

test('the log says where it is and where its timeline was left', () => {
  const { message, detail } = divergenceOf({ ...STANDBY, timeline: timelineId(2) });
  assert.equal(message, `standby "standby" has WAL that is not in this server's history`);
  const place = 'It is at 0/5000100 on timeline 2.';
  assert.equal(detail, `${place} This server's history forked from timeline 1 at 0/4000000.`);
});
