/** Changes to walcade.conf, in directories of their own. */
import assert from 'node:assert/strict';
import fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { changeParameter, checkChange } from './conf-change.ts';

const CONF = `# the upstream
primary_conninfo = 'host=a password=''secret'''  # since Monday
port = 4002
`;

async function nodeWith(
  t: TestContext,
  files: Record<string, string>,
): Promise<{ directory: string; conf: string }> {
  const directory = await fs.mkdtemp(join(tmpdir(), 'conf-'));
  t.after(() => fs.rm(directory, { recursive: true }));
  for (const [name, text] of Object.entries(files)) await fs.writeFile(join(directory, name), text);
  return { directory, conf: join(directory, 'walcade.conf') };
}

test('a parameter is changed; comments, mode and owner stay, nothing is left beside', async (t) => {
  const { directory, conf } = await nodeWith(t, { 'walcade.conf': CONF });
  await fs.chmod(conf, 0o640);
  const before = await fs.stat(conf);
  const owner = process.getuid?.() === 0 ? { uid: 12_345, gid: 23_456 } : before;
  await fs.chown(conf, owner.uid, owner.gid);
  await changeParameter(directory, 'primary_conninfo', "host=b password='x y'");
  assert.equal(
    await fs.readFile(conf, 'utf8'),
    CONF.replace("'host=a password=''secret'''", "'host=b password=''x y'''"),
  );
  const { mode, uid, gid } = await fs.stat(conf);
  assert.deepEqual({ mode, uid, gid }, { mode: before.mode, uid: owner.uid, gid: owner.gid });
  assert.deepEqual(await fs.readdir(directory), ['walcade.conf']);
});

test('a file that is a link stays one, and the file behind it is changed', async (t) => {
  const { directory, conf } = await nodeWith(t, { real: CONF });
  await fs.symlink('real', conf);
  await changeParameter(directory, 'primary_conninfo', 'host=b');
  assert.equal(await fs.readlink(conf), 'real');
  assert.match(await fs.readFile(join(directory, 'real'), 'utf8'), /'host=b'/);
});

test('what an included file would override is refused, and nothing is changed', async (t) => {
  const text = `${CONF}include 'more.conf'\n`;
  const more = "primary_conninfo = 'host=c'\n";
  const { directory, conf } = await nodeWith(t, { 'walcade.conf': text, 'more.conf': more });
  for (const change of [checkChange, changeParameter]) {
    await assert.rejects(change(directory, 'primary_conninfo', 'host=b'), {
      sqlstate: 'F0000',
      message: 'parameter "primary_conninfo" is set in a file that "walcade.conf" includes',
    });
  }
  await checkChange(directory, 'port', '4003');
  assert.equal(await fs.readFile(conf, 'utf8'), text);
});

test('a file with an error is refused with what is wrong in it, nothing is changed', async (t) => {
  const text = `${CONF}prot = 1\n`;
  const { directory, conf } = await nodeWith(t, { 'walcade.conf': text });
  await assert.rejects(changeParameter(directory, 'primary_conninfo', 'host=b'), {
    sqlstate: 'F0000',
    detail: 'unrecognized configuration parameter "prot" in file "walcade.conf" line 4',
  });
  assert.equal(await fs.readFile(conf, 'utf8'), text);
});

test('a value that no parameter may have is refused, and nothing is changed', async (t) => {
  const { directory, conf } = await nodeWith(t, { 'walcade.conf': CONF });
  await assert.rejects(changeParameter(directory, 'primary_conninfo', 'hots=b'), {
    sqlstate: '22023',
  });
  assert.equal(await fs.readFile(conf, 'utf8'), CONF);
});
