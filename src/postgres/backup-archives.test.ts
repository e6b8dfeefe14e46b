/** Archives out of the messages of a base backup, in both forms, cut at every byte. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  COPY_DONE,
  encodeCopyOutResponse,
  encodeReadyForQuery,
} from '../protocol/backend-messages.ts';
import { cstring, message } from '../protocol/bytes.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { type Message, MessageReader } from '../protocol/message-reader.ts';
import { readBackupParts } from './backup-archives.ts';
import type { BackupForm } from './backup-command.ts';

const copyData = (...parts: Buffer[]): Buffer => message('d', ...parts);
const text = (characters: string): Buffer => Buffer.from(characters, 'latin1');
const archive = (name: string, path = ''): Buffer =>
  copyData(text('n'), cstring(name), cstring(path));
const data = (content: string): Buffer => copyData(text(`d${content}`));
const PROGRESS = copyData(text('p'), Buffer.alloc(8, 1));
const MANIFEST = copyData(text('m'));

const LONG = 'a tablespace that needs more than one fragment, '.repeat(3);

const TYPED = [
  encodeCopyOutResponse(),
  archive('16385.tar', `/srv/${LONG}`),
  data(LONG),
  PROGRESS,
  data(''),
  data('end'),
  archive('base.tar'),
  data('base'),
  PROGRESS,
  MANIFEST,
  data('manifest 1, '),
  data('manifest 2'),
  COPY_DONE,
];

const COPIES = [
  encodeCopyOutResponse(),
  copyData(text(LONG)),
  copyData(),
  copyData(text('end')),
  COPY_DONE,
  encodeCopyOutResponse(),
  copyData(text('base')),
  COPY_DONE,
  encodeCopyOutResponse(),
  copyData(text('manifest 1, ')),
  copyData(text('manifest 2')),
  COPY_DONE,
];

const WHOLE = [`16385: ${LONG}end`, 'data directory: base', 'manifest: manifest 1, manifest 2'];

for (const [form, messages] of [
  ['typed-copy', TYPED],
  ['copy-each', COPIES],
] as const) {
  test(`${form}: the parts are the same wherever the stream is cut`, async () => {
    const stream = Buffer.concat(messages);
    for (let cut = 0; cut <= stream.length; cut += 1) {
      const pieces = [stream.subarray(0, cut), stream.subarray(cut)];
      assert.deepEqual(await partsOf(form, pieces), WHOLE);
    }
    assert.deepEqual(
      await partsOf(
        form,
        [...stream].map((byte) => Buffer.from([byte])),
      ),
      WHOLE,
    );
  });

  test(`${form}: an error of the server ends the backup at any message`, async () => {
    const promoted = new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      'the standby was promoted during online backup',
      { hint: 'This means that the backup being taken is corrupt and should not be used.' },
    );
    for (let index = 0; index < messages.length; index += 1) {
      const upToThere = Buffer.concat([
        ...messages.slice(0, index),
        encodeErrorResponse(promoted, 'ERROR'),
        encodeReadyForQuery(),
      ]);
      await assert.rejects(partsOf(form, [upToThere]), {
        sqlstate: '55000',
        message: promoted.message,
        hint: promoted.hint,
      });
    }
  });

  test(`${form}: a message that is missing or out of place is refused`, async () => {
    // One less of data or progress, or an empty one more, leaves a backup as the protocol has it.
    const isFree = (each: Buffer): boolean => /^d.{4}(?:[dp]|$)/s.test(each.toString('latin1'));
    for (const [index, each] of messages.entries()) {
      if (form === 'copy-each' ? each[0] === 0x64 : isFree(each)) continue;
      const less = messages.toSpliced(index, 1);
      const more = messages.toSpliced(index, 0, each);
      // A second end is not read here any more.
      const isLast = index === messages.length - 1;
      for (const stream of isLast ? [less] : [less, more]) {
        await assert.rejects(partsOf(form, [Buffer.concat([...stream, encodeReadyForQuery()])]), {
          sqlstate: '08P01',
        });
      }
    }
  });
}

test('what is no message of a typed copy is refused', async () => {
  const begin = [encodeCopyOutResponse(), archive('16385.tar'), data('x')];
  for (const [messages, detail] of [
    [[encodeCopyOutResponse(), data('x')], 'Data of 1 bytes came before any archive.'],
    [[...begin, copyData()], 'A message in the copy begins with byte none.'],
    [[...begin, copyData(text('x'))], 'A message in the copy begins with byte 120.'],
    [[...begin, archive('16386.tar')], 'Expected archive "base.tar", got archive "16386.tar".'],
    [[...begin, COPY_DONE], 'Expected archive "base.tar", got end.'],
    [[...begin, archive('x'.repeat(20_000))], 'The name of an archive has 20003 bytes.'],
  ] as const) {
    await assert.rejects(partsOf('typed-copy', [Buffer.concat(messages)]), {
      sqlstate: '08P01',
      detail,
    });
  }
  const unended = copyData(text('nbase.tar'));
  await assert.rejects(partsOf('typed-copy', [Buffer.concat([...begin, unended])]), {
    sqlstate: '08P01',
  });
});

/** Each part with its content, of a backup of tablespace 16385 and the data directory. */
async function partsOf(form: BackupForm, pieces: readonly Buffer[]): Promise<string[]> {
  const limits = { bodyBytesMax: () => 1_000_000, copyDataHeadBytes: 25 };
  const reader = new MessageReader(limits);
  const arrived: Message[] = [];
  for (const piece of pieces) reader.push(piece, arrived);
  const next = async (): Promise<Message> => {
    const first = arrived.shift();
    if (first === undefined) throw new Error('the connection is silent');
    return first;
  };
  const parts: string[] = [];
  for await (const part of readBackupParts(next, { form, oids: ['16385'] })) {
    const content: Buffer[] = [];
    for await (const chunk of part.chunks) content.push(chunk);
    const name = part.kind === 'manifest' ? 'manifest' : (part.oid ?? 'data directory');
    parts.push(`${name}: ${Buffer.concat(content).toString('latin1')}`);
  }
  return parts;
}
