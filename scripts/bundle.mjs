/**
 * Makes the program of src: some files in place of two hundred, since each module that Node.js has
 * to find and link costs a start about a millisecond.
 *
 * What is imported when it is needed stays a file of its own. Names stay as they are and each
 * module is under a comment with its path, so that a stack trace can be read. Packages that are
 * dependencies stay outside; others that src uses become part of the program, with their licenses.
 */
import { buildSync } from 'esbuild';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Some packages are CommonJS, and ask for modules of Node.js as such. */
const REQUIRE = `import { createRequire as requireFrom } from 'node:module';
const require = requireFrom(import.meta.url);`;

/**
 * Writes the program of the package at `root` to `directory`, the command line as cli/main.js.
 * Every file is two levels below the package, as those of src are.
 */
export function bundle(root, directory) {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const { metafile } = buildSync({
    absWorkingDir: root,
    entryPoints: ['src/cli/main.ts'],
    outdir: directory,
    outbase: 'src',
    chunkNames: 'parts/[name]-[hash]',
    bundle: true,
    splitting: true,
    external: Object.keys(dependencies),
    banner: { js: REQUIRE },
    platform: 'node',
    format: 'esm',
    target: 'node20.19',
    preserveSymlinks: true,
    metafile: true,
    logLevel: 'warning',
  });
  writeFileSync(join(directory, 'LICENSES'), licensesOf(root, Object.keys(metafile.inputs)));
}

/** The licenses of the packages that `files` are from, as those ask for. */
function licensesOf(root, files) {
  const packages = new Set();
  for (const file of files) {
    const name = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file);
    if (name !== null) packages.add(name[1]);
  }
  const texts = Array.from(packages, (name) => {
    const place = join(root, 'node_modules', name);
    const license = readdirSync(place).find((file) => /^licen[cs]e/i.test(file));
    if (license === undefined) throw new Error(`package ${name} has no license`);
    return `${name}\n\n${readFileSync(join(place, license), 'utf8').trim()}\n`;
  });
  return texts.join(`\n${'-'.repeat(72)}\n\n`);
}
