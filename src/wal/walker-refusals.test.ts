/** What the walker refuses, in the words of xlogreader.c, and where it says that it is. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { MB, START, made, refuse, seal, walk, walkerAt } from '../../test/harness/wal-walks.ts';
import { walFormatByMajor } from './formats.ts';
import { advance, lsn, parseLsn } from './lsn.ts';
import { WalWalker } from './walker.ts';

describe('WAL walker on corrupt WAL', () => {
  it("lets a page's timeline grow, not shrink", () => {
    const page = { bodyBytes: 8192 - 24 - 24 };
    const first = { bodyBytes: 8192 - 40 - 24 };
    assert.equal(walk(made([first, { ...page, timeline: 2 }, page]).wal).timeline, 2);
    refuse(made([first, { ...page, timeline: 3 }, { ...page, timeline: 2 }]).wal, {
      message:
        'out-of-sequence timeline ID 2 (after 3) in WAL segment 000000030000000000000001, ' +
        'LSN 0/104000, offset 16384',
      lsn: parseLsn('0/104000'),
      proven: parseLsn('0/104000'),
    });
  });

  it('refuses a record in the words of PostgreSQL', () => {
    const { wal, records } = made([{}, { bodyBytes: 100 }, {}]);
    const record = records[1];
    assert.ok(record);
    const at = Number(record.start - START);
    const table: [change: (wal: Buffer) => void, message: string][] = [
      [
        (b) => b.writeUInt32LE(0, at),
        'invalid record length at 0/100068: expected at least 24, got 0',
      ],
      [
        (b) => b.writeUInt32LE(23, at),
        'invalid record length at 0/100068: expected at least 24, got 23',
      ],
      [(b) => b.writeUInt32LE(0xffff_ffff, at), 'record length 4294967295 at 0/100068 too long'],
      [
        (b) => b.writeUInt32LE(1020 * MB + 1, at),
        `record length ${1020 * MB + 1} at 0/100068 too long`,
      ],
      [(b) => b.writeUInt8(22, at + 17), 'invalid resource manager ID 22 at 0/100068'],
      [(b) => b.writeUInt8(127, at + 17), 'invalid resource manager ID 127 at 0/100068'],
      [(b) => b.writeUInt8(1, at + 8), 'record with incorrect prev-link 0/100001 at 0/100068'],
      [(b) => b.writeUInt8(1, at + 12), 'record with incorrect prev-link 1/100028 at 0/100068'],
      [
        (b) => b.writeUInt8(1, at + 4),
        'incorrect resource manager data checksum in record at 0/100068',
      ],
      [
        (b) => b.writeUInt8(1, at + 60),
        'incorrect resource manager data checksum in record at 0/100068',
      ],
    ];
    for (const [change, message] of table) {
      const broken = Buffer.from(wal);
      change(broken);
      refuse(broken, { message, lsn: record.start, proven: record.start });
    }
  });

  it('accepts the resource managers of extensions from 15 on', () => {
    const records = [{}, { resourceManager: 128 }, { resourceManager: 255 }];
    assert.ok(walk(made(records, { major: 15 }).wal).proven > START);
    refuse(made(records, { major: 14 }).wal, {
      message: 'invalid resource manager ID 128 at 0/100068',
      lsn: parseLsn('0/100068'),
      proven: parseLsn('0/100068'),
    });
  });

  it('refuses a continuation that is not that of its record', () => {
    const table: [offset: number, value: number, message: string][] = [
      [8194, 0, 'there is no contrecord flag at 0/100028'],
      [8208, 0, 'invalid contrecord length 1616 (expected 1872) at 0/100028'],
    ];
    for (const [offset, value, message] of table) {
      const { wal } = made([{ bodyBytes: 10_000 }]);
      wal[offset] = offset === 8194 ? value : 0x50;
      if (offset === 8208) wal[8209] = 0x06;
      refuse(wal, { message, lsn: parseLsn('0/100028'), proven: START });
    }
    const { wal } = made([{ bodyBytes: 8192 - 40 - 24 }, {}]);
    wal[8194] = 1;
    refuse(wal, {
      message: 'contrecord is requested by 0/102018',
      lsn: parseLsn('0/102018'),
      proven: parseLsn('0/102000'),
    });
  });

  it('refuses a page in the words of PostgreSQL', () => {
    const second = 'in WAL segment 000000010000000000000001, LSN 0/102000, offset 8192';
    const first = 'in WAL segment 000000010000000000000001, LSN 0/100000, offset 0';
    const different = 'WAL file is from different database system';
    const table: [offset: number, value: number, message: string][] = [
      [0, 0, `invalid magic number D100 ${first}`],
      [2, 0, `invalid info bits 0000 ${first}`],
      [34, 0x20, `${different}: incorrect segment size in page header`],
      [37, 0x10, `${different}: incorrect XLOG_BLCKSZ in page header`],
      [8192, 0x10, `invalid magic number D110 ${second}`],
      [8194, 0x10, `invalid info bits 0010 ${second}`],
      [8204, 1, `unexpected pageaddr 1/102000 ${second}`],
      [8196, 0, `out-of-sequence timeline ID 0 (after 1) ${second}`],
    ];
    for (const [offset, value, message] of table) {
      const { wal } = made([{ bodyBytes: 8192 - 40 - 24 }, {}]);
      wal[offset] = value;
      const page = advance(START, offset < 8192 ? 0 : 8192);
      refuse(wal, { message, lsn: page, proven: page });
    }
  });

  it('refuses WAL of another cluster or version than it was told of', () => {
    const { wal } = made([{}]);
    const message =
      'WAL file is from different database system: WAL file database system identifier is 7301, ' +
      'pg_control database system identifier is 7299';
    refuse(wal, { message, lsn: START, proven: START }, { systemIdentifier: 7299n });
    refuse(
      wal,
      {
        message:
          'invalid magic number D113 in WAL segment 000000010000000000000001, ' +
          'LSN 0/100000, offset 0',
        lsn: START,
        proven: START,
      },
      { format: walFormatByMajor(15) },
    );
  });

  it('proves what came before the thing wrong in the same chunk, and counts no more', () => {
    const { wal, records } = made([{}, {}, {}]);
    const third = records[2];
    assert.ok(third);
    wal.writeUInt8(9, Number(third.start - START) + 30);
    const walker = walkerAt(START);
    assert.throws(() => walker.push(wal));
    assert.equal(walker.proven, third.start);
    assert.equal(walker.received, third.start);
    seal(wal, Number(third.start - START));
    assert.equal(walk(wal).proven, third.end);
  });

  it('refuses segment sizes that do not exist, and asserts where it may start', () => {
    const wrong = { segmentBytes: 3 * MB, start: START, startsAt: 'segment' as const };
    assert.throws(() => new WalWalker(wrong), { sqlstate: '22023' });
    assert.throws(() => walkerAt(advance(START, 8)), { name: 'AssertionFailed' });
    const odd = lsn(START + 1n);
    assert.throws(() => walkerAt(odd, { startsAt: 'record' }), { name: 'AssertionFailed' });
  });
});
