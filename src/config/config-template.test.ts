/**
 * The files of a new node can be read again and say what they were asked to say.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { loadConfig, setParameter } from './conf-file.ts';
import { configTemplate, hbaTemplate } from './config-template.ts';
import { matchHba, parseHba } from './hba.ts';
import { PARAMETERS, nodeConfig } from './parameters.ts';

const load = (text: string) => loadConfig('/node', { readText: async () => text });

describe('the template of walcade.conf', () => {
  test('lists every parameter once, at its default and commented out', async () => {
    const text = configTemplate();
    for (const { name } of Object.values(PARAMETERS)) {
      assert.equal(text.split('\n').filter((line) => line.startsWith(`#${name} = `)).length, 1);
    }
    assert.deepEqual(await load(text), nodeConfig());
  });

  test('uncommenting every line changes nothing', async () => {
    const text = configTemplate().replace(/^#(?=[a-z_]+ = )/gm, '');
    assert.deepEqual(await load(text), nodeConfig());
  });

  test('sets the values it is given, whatever is in them', async () => {
    const conninfo = String.raw`host='a b' password='it\'s'`;
    const text = configTemplate({ port: '4002', primary_conninfo: conninfo });
    const config = await load(text);
    assert.equal(config.port, 4002);
    assert.equal(config.primaryConninfo, conninfo);
    assert.throws(() => configTemplate({ port: '0' }), { sqlstate: '22023' });
  });

  test('is edited in place: a changed parameter keeps its line', async () => {
    const before = configTemplate();
    const after = setParameter(before, 'wal_sender_timeout', '5s');
    assert.equal(after.split('\n').length, before.split('\n').length);
    assert.equal((await load(after)).walSenderTimeoutMs, 5000);
  });

  test('has no line over 100 columns and says what needs a restart', () => {
    const text = configTemplate();
    assert.deepEqual(
      text.split('\n').filter((line) => line.length > 100),
      [],
    );
    assert.match(text, /#port = 5432 +#.*\n +# range 1-65535\n +# \(change requires restart\)\n/);
  });
});

describe('the template of walcade_hba.conf', () => {
  const rules = parseHba(hbaTemplate(), 'walcade_hba.conf');
  const client = { user: 'anyone', database: 'walcade', replication: true };

  test('trusts the socket and loopback, for replication and the console', () => {
    for (const replication of [true, false]) {
      const local = { ...client, replication, transport: 'local' } as const;
      assert.equal(matchHba(rules, local).kind, 'trust');
      for (const address of ['127.0.0.1', '::1', '::ffff:127.0.0.1']) {
        const tcp = { ...client, replication, transport: 'tcp', address } as const;
        assert.equal(matchHba(rules, tcp).kind, 'trust', address);
      }
    }
  });

  test('lets nobody else in', () => {
    for (const address of ['10.0.0.1', '127.0.0.2', 'fe80::1', '::ffff:10.0.0.1']) {
      const tcp = { ...client, transport: 'tcp', address } as const;
      assert.equal(matchHba(rules, tcp).kind, 'no-match', address);
    }
  });
});
