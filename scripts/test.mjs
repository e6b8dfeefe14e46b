/**
 * Runs the tests: `node scripts/test.mjs [suite] [file name filter or --node-option …]`.
 *
 * Without a suite it does everything that continuous integration needs: checks, unit tests, then
 * recovery tests. Ends with status 1 if a check or test failed, if no test ran, or if a process
 * of the tests outlived them; all of a run's files are under one temporary directory.
 */
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { findLeftovers } from './leftovers.mjs';
import { ensureInstalled } from './node-modules.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
/** The recovery tests that can go on for longer than continuous integration has time. */
const SOAK = ['047-ten-promotions'];
const MAJORS = ['13', '14', '15', '16', '17', '18'];
const LEFTOVER_GRACE_MS = 5_000;
const MEMORY = '/dev/shm';
const MEMORY_BYTES_MIN = 8 * 1024 ** 3;

/** A file of recovery tests waits a fifth of its time, so three run even on two cores. */
const GROUPS = {
  unit: {
    folders: ['src', 'test'],
    holds: (file) => file.startsWith(`src${sep}`) || file.split(sep).length === 2,
    concurrency: availableParallelism(),
    processes: 4 * availableParallelism(),
    timeoutMs: 600_000,
  },
  recovery: {
    folders: [join('test', 'recovery')],
    holds: () => true,
    concurrency: Math.max(3, Math.floor(availableParallelism() / 2)),
    timeoutMs: 600_000,
  },
  fuzz: {
    folders: [join('test', 'fuzz')],
    holds: () => true,
    concurrency: availableParallelism(),
    timeoutMs: 600_000,
  },
};

const CHECKS = [
  { name: 'format', program: '@biomejs/biome/bin/biome', args: ['format', '.'] },
  { name: 'lint', program: 'oxlint/bin/oxlint', args: ['--type-aware', '--deny-warnings'] },
  { name: 'types', program: 'typescript/bin/tsc', args: ['--noEmit', '-p', 'tsconfig.json'] },
];

const SUITES = {
  all: async (choice) => (await runChecks()) && (await runGroups(choice)),
  check: async (choice) => (await runChecks()) && (await runGroup('unit', choice)),
  unit: (choice) => runGroup('unit', choice),
  recovery: (choice) => runGroup('recovery', choice),
  fuzz: (choice) => runGroup('fuzz', choice, { WALCADE_FUZZ_SECONDS: longFuzzSeconds() }),
  soak: (choice) => runGroup('recovery', choice.length > 0 ? choice : SOAK, soakEnvironment()),
  matrix: runMatrix,
};

const [first, ...others] = process.argv.slice(2);
const suite = Object.hasOwn(SUITES, first ?? '') ? first : 'all';
const rest = suite === first || first === undefined ? others : [first, ...others];
const directory = fs.mkdtempSync(join(fs.realpathSync(placeOfRun()), 'walcade-test-'));
fs.chmodSync(directory, 0o755);
let interrupted = false;
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => (interrupted = true));
try {
  const passed = await SUITES[suite](rest);
  const cleaned = await endLeftovers();
  process.exitCode = passed && cleaned && !interrupted ? 0 : 1;
} catch (error) {
  process.stderr.write(`test: ${error.message}\n`);
  process.exitCode = 1;
} finally {
  if (process.env.WALCADE_TEST_KEEP === undefined) {
    fs.rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

/**
 * Where the servers of a run keep their files: in memory where there is plenty of it, which
 * halves the time of a run; else, and if TMPDIR is set, in the temporary directory.
 */
function placeOfRun() {
  if (process.env.TMPDIR !== undefined || !fs.existsSync(MEMORY)) return tmpdir();
  const { bavail, bsize } = fs.statfsSync(MEMORY);
  const free = Math.min(bavail * bsize, process.availableMemory?.() ?? 0);
  return free >= MEMORY_BYTES_MIN ? MEMORY : tmpdir();
}

/** Format, lint and types: all are run, so that one round shows everything there is to mend. */
async function runChecks() {
  let passed = true;
  for (const { name, program, args } of CHECKS) {
    const status = await run([join(root, 'node_modules', program), ...args], {});
    if (status !== 0) process.stderr.write(`test: ${name} check ended with status ${status}\n`);
    passed &&= status === 0;
  }
  return passed;
}

/** Unit, fuzz (in its short form) and recovery tests; a filter need not match in every group. */
async function runGroups(choice) {
  const filters = choice.filter((argument) => !argument.startsWith('-'));
  const names = ['unit', 'fuzz', 'recovery'].filter(
    (name) => filters.length === 0 || testFiles(GROUPS[name], filters).length > 0,
  );
  if (names.length === 0) return runGroup('unit', choice);
  for (const name of names) if (!(await runGroup(name, choice))) return false;
  return true;
}

function soakEnvironment() {
  return { WALCADE_SOAK_PROMOTIONS: process.env.WALCADE_SOAK_PROMOTIONS ?? '10' };
}

/** For how long each fuzz test goes on by itself, if the environment does not say. */
function longFuzzSeconds() {
  return process.env.WALCADE_FUZZ_SECONDS ?? '60';
}

/** The recovery tests on each PostgreSQL major, or on those named among the arguments. */
async function runMatrix(choice) {
  const named = choice.filter((argument) => MAJORS.includes(argument));
  ensureInstalled(join(root, 'test', 'majors'));
  const failed = [];
  for (const major of named.length === 0 ? MAJORS : named) {
    process.stdout.write(`PostgreSQL ${major}\n`);
    const filters = choice.filter((argument) => !MAJORS.includes(argument));
    const passed = await runGroup('recovery', filters, { WALCADE_TEST_MAJOR: major });
    if (!passed) failed.push(major);
    if (interrupted) break;
  }
  if (failed.length > 0) {
    process.stderr.write(`test: recovery tests failed on PostgreSQL ${failed.join(', ')}\n`);
  }
  return failed.length === 0;
}

/** Runs the test files of a group that match a filter; false if one failed or none ran. */
async function runGroup(name, choice, environment = {}) {
  const { concurrency, timeoutMs } = GROUPS[name];
  const nodeOptions = choice.filter((argument) => argument.startsWith('-'));
  const filters = choice.filter((argument) => !argument.startsWith('-'));
  const files = testFiles(GROUPS[name], filters);
  if (files.length === 0) {
    process.stderr.write(`test: no ${name} test file matches ${filters.join(', ') || '*'}\n`);
    return false;
  }
  const summary = join(directory, `${name}-summary.tap`);
  const options = [
    '--import=tsx',
    '--test',
    `--test-concurrency=${concurrency}`,
    `--test-timeout=${timeoutMs}`,
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
    '--test-reporter=tap',
    `--test-reporter-destination=${summary}`,
  ];
  const programs = sharedPrograms(name, files);
  const status = await run([...options, ...nodeOptions, ...programs], environment);
  if (status !== 0) return false;
  const ran = /^# pass (\d+)$/m.exec(fs.readFileSync(summary, 'utf8'));
  if (Number(ran?.[1] ?? 0) > 0) return true;
  process.stderr.write(`test: no ${name} test ran\n`);
  return false;
}

/**
 * What is run for the test files of a group: themselves, or where these are many and small, a few
 * programs that import them by turns. A process and the modules that it loads cost more than the
 * tests of most files.
 */
function sharedPrograms(name, files) {
  const { processes = files.length } = GROUPS[name];
  if (processes >= files.length) return files;
  return Array.from({ length: processes }, (_, index) => {
    const program = join(directory, `${name}-${index + 1}.test.mjs`);
    const its = files.filter((_, position) => position % processes === index);
    const imports = its.map((file) => `import '${pathToFileURL(join(root, file)).href}';\n`);
    fs.writeFileSync(program, imports.join(''));
    return program;
  });
}

function testFiles({ folders, holds }, filters) {
  const files = folders.flatMap((folder) =>
    fs
      .readdirSync(join(root, folder), { recursive: true })
      .map((name) => join(folder, name))
      .filter((file) => file.endsWith('.test.ts') && holds(file)),
  );
  return files
    .filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)))
    .sort();
}

/** Runs node with `args` at the root of the checkout; resolves to its exit status. */
function run(args, environment) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...process.env, ...environment, WALCADE_TEST_DIRECTORY: directory },
    });
    const passOn = (signal) => child.kill(signal);
    process.on('SIGINT', passOn).on('SIGTERM', passOn);
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      process.off('SIGINT', passOn).off('SIGTERM', passOn);
      resolve(code ?? signal);
    });
  });
}

/** Names and kills what the tests left running; true if there was nothing. */
async function endLeftovers() {
  const giveUpAt = Date.now() + LEFTOVER_GRACE_MS;
  let leftovers = findLeftovers(directory);
  while (leftovers.length > 0 && Date.now() < giveUpAt) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    leftovers = findLeftovers(directory);
  }
  for (const { pid, command } of leftovers) {
    process.stderr.write(`test: process ${pid} outlived the tests: ${command}\n`);
    process.kill(pid, 'SIGKILL');
  }
  return leftovers.length === 0;
}
