/** The WebAssembly module that is committed is the one that its source makes. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { WASM_FILE, compiledBulkProof } from '../scripts/build-wasm.ts';

test('src/wal/bulk-proof-wasm.ts is what npm run wasm writes', async () => {
  assert.equal(readFileSync(WASM_FILE, 'utf8'), await compiledBulkProof());
});
