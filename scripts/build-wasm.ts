/**
 * src/wal/bulk-proof-wasm.ts, compiled from wasm/: run as a program it writes the file.
 *
 * The module is committed, so that nobody who installs or runs walcade needs the compiler.
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { main } from 'assemblyscript/asc';

export const WASM_FILE = fileURLToPath(new URL('../src/wal/bulk-proof-wasm.ts', import.meta.url));

/** No runtime: memory is laid out at compile time, and never grows. */
const OPTIONS = '--runtime stub --optimizeLevel 3 --noAssert --initialMemory 5 --maximumMemory 5';

const COLUMNS = 96;

/** The text of src/wal/bulk-proof-wasm.ts. The compiler's messages go to standard error. */
export async function compiledBulkProof(): Promise<string> {
  const baseDir = fileURLToPath(new URL('../wasm', import.meta.url));
  const sources = ['bulk-proof.ts', '--baseDir', baseDir];
  const modules: Uint8Array[] = [];
  const { error } = await main(
    [...sources, '--outFile', 'bulk-proof.wasm', ...OPTIONS.split(' ')],
    {
      stderr: process.stderr,
      writeFile: (_name, contents) => void modules.push(contents as Uint8Array),
    },
  );
  const [module] = modules;
  if (error || !module) throw new Error('wasm does not compile', { cause: error });
  const lines = Buffer.from(module)
    .toString('base64')
    .match(new RegExp(`.{1,${COLUMNS}}`, 'g'));
  return [
    '/** Made from wasm/ by `npm run wasm`; do not edit. A WebAssembly module in base64. */',
    'export const BULK_PROOF_WASM = `',
    ...(lines ?? []),
    '`;',
    '',
  ].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(WASM_FILE, await compiledBulkProof());
}
