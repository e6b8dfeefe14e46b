/**
 * Makes a checkout ready to run, and does nothing if it is: `node scripts/prepare-checkout.mjs`
 * installs the dependencies, `--build` also compiles src into dist.
 *
 * Plain JavaScript on Node's built-in modules, since node_modules may be missing. Any number of
 * runs may go on at once: a build is made beside dist and moved into place when it is complete.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureInstalled } from './node-modules.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = join(root, 'dist');

const NODE_VERSION_MIN = [20, 19];
const RENAME_ATTEMPTS_MAX = 100;

try {
  requireNode();
  ensureInstalled(root);
  if (process.argv.includes('--build')) await build();
} catch (error) {
  process.stderr.write(`prepare-checkout: ${error.message}\n`);
  process.exitCode = 1;
}

function requireNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const [majorMin, minorMin] = NODE_VERSION_MIN;
  if (major > majorMin || (major === majorMin && minor >= minorMin)) return;
  throw new Error(
    `walcade needs Node.js ${majorMin}.${minorMin} or newer, this is ${process.versions.node}`,
  );
}

/** Compiles src into dist, unless dist was made from exactly these sources. */
async function build() {
  const sources = sourceHash();
  if (readIfPresent(join(dist, '.sources')) === sources) return;
  removeAbandonedBuilds();
  const building = join(root, `.dist-${process.pid}`);
  fs.rmSync(building, { recursive: true, force: true });
  try {
    checkTypes();
    // Not before node_modules is known to be there.
    const { bundle } = await import('./bundle.mjs');
    bundle(root, building);
    fs.writeFileSync(join(building, '.sources'), sources);
    moveIntoPlace(building);
  } finally {
    fs.rmSync(building, { recursive: true, force: true });
  }
}

function checkTypes() {
  const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const check = ['-p', join(root, 'tsconfig.build.json')];
  const { status, error } = spawnSync(process.execPath, [compiler, ...check], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  });
  if (error) throw error;
  if (status !== 0) throw new Error('src does not compile, dist was left as it is');
}

/** Renames `building` to dist; of several that do so at once, each in turn becomes dist. */
function moveIntoPlace(building) {
  const replaced = `${building}-replaced`;
  for (let attempt = 1; ; attempt += 1) {
    try {
      if (fs.existsSync(dist)) fs.renameSync(dist, replaced);
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
    }
    try {
      fs.renameSync(building, dist);
      fs.rmSync(replaced, { recursive: true, force: true });
      return;
    } catch (error) {
      const lostRace = ['ENOTEMPTY', 'EEXIST', 'EPERM'].includes(error.code);
      if (!lostRace || attempt === RENAME_ATTEMPTS_MAX) throw error;
      fs.rmSync(replaced, { recursive: true, force: true });
    }
  }
}

/** A hash of everything that dist depends on: contents, not times, which a checkout changes. */
function sourceHash() {
  const files = [
    'tsconfig.json',
    'tsconfig.build.json',
    'package.json',
    'package-lock.json',
    'scripts/bundle.mjs',
  ];
  for (const name of fs.readdirSync(join(root, 'src'), { recursive: true })) {
    if (name.endsWith('.ts') && !name.endsWith('.test.ts')) files.push(join('src', name));
  }
  const hash = createHash('sha256');
  for (const file of files.sort()) {
    const content = fs.readFileSync(join(root, file));
    hash.update(`${file} ${content.length}\n`).update(content);
  }
  return hash.digest('hex');
}

/** Removes what a build left behind whose process was killed. */
function removeAbandonedBuilds() {
  for (const name of fs.readdirSync(root)) {
    const builder = /^\.dist-(\d+)/.exec(name);
    if (builder && !isRunning(Number(builder[1]))) {
      fs.rmSync(join(root, name), { recursive: true, force: true });
    }
  }
}

function isRunning(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

function readIfPresent(file) {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}
