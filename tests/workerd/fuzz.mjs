// Runs the inputs of tests/fuzz.py in real workerd. COUNT inputs in all (100,000), from SEED on (1).
//
// `fuzz(count, seed, say)` throws at the first input that breaks a parser, or the interpreter.
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { startLocal } from "../../runtime/local.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = resolve(HERE, "../..");
const STEP = 1_000; // inputs of one request

export async function fuzz(count, seed, say) {
  // The module under its own name, tests.fuzz, beside the Worker that runs it.
  const sources = mkdtempSync(join(tmpdir(), "fuzz-"));
  cpSync(join(ROOT, "tests/fuzz.py"), join(sources, "tests/fuzz.py"));
  cpSync(join(HERE, "fuzz_entry.py"), join(sources, "fuzz_entry.py"));
  const local = await startLocal({ root: ROOT, entry: "fuzz_entry", sources: ["src", sources] });
  try {
    const targets = await (await fetch(local.url)).json();
    const each = Math.ceil(count / targets.length);
    for (const target of targets) {
      for (let done = 0; done < each; done += STEP) {
        const query = new URLSearchParams({ count: Math.min(STEP, each - done), seed: seed + done });
        const answer = await fetch(new URL(`${encodeURIComponent(target)}?${query}`, local.url), { method: "POST" });
        const text = await answer.text();
        if (text !== "ok") throw new Error(`${target}: ${text.slice(0, 2000)}`);
      }
      say(`${target.padEnd(32)} ${each} inputs in workerd ok`);
    }
  } finally {
    await local.dispose();
    rmSync(sources, { recursive: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await fuzz(Number(process.env.COUNT ?? 100_000), Number(process.env.SEED ?? 1), console.log);
}
