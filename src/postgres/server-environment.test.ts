/** What an attached server gets of the environment that the node was started with. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { serverEnvironment } from './server-environment.ts';

const NODE = {
  PATH: '/usr/bin:/bin',
  PGDATA: '/elsewhere',
  PGSSLMODE: 'require',
  LANG: 'de_DE.UTF-8',
  LANGUAGE: 'de',
  LC_MESSAGES: 'de_DE.UTF-8',
  HOME: '/a/home',
  USER: 'somebody',
  XDG_RUNTIME_DIR: '/run/user/1000',
  AWS_PROFILE: 'archive',
  NOTHING: undefined,
};

const LC_ALL = process.platform === 'darwin' ? 'C' : 'C.UTF-8';

test('variables of PostgreSQL and of the language do not reach the server, others do', () => {
  assert.deepEqual(serverEnvironment(NODE, undefined), {
    PATH: '/usr/bin:/bin',
    HOME: '/a/home',
    USER: 'somebody',
    XDG_RUNTIME_DIR: '/run/user/1000',
    AWS_PROFILE: 'archive',
    LC_ALL,
  });
});

test('a server of another user does not get the home of who started the node', () => {
  assert.deepEqual(serverEnvironment(NODE, { uid: 101, gid: 104 }), {
    PATH: '/usr/bin:/bin',
    AWS_PROFILE: 'archive',
    LC_ALL,
  });
});
