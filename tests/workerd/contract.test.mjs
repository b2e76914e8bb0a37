// The contract suite of the storage port (tests/contract), on the real R2 binding in real workerd.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import { startLocal } from "../../runtime/local.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = resolve(HERE, "../..");

// The suite under its own name, tests.contract, beside the Worker that runs it.
const sources = mkdtempSync(join(tmpdir(), "contract-"));
cpSync(join(ROOT, "tests/contract"), join(sources, "tests/contract"), { recursive: true });
cpSync(join(HERE, "contract_entry.py"), join(sources, "contract_entry.py"));

const local = await startLocal({ root: ROOT, entry: "contract_entry", sources: ["src", sources] });
after(async () => {
  await local.dispose();
  rmSync(sources, { recursive: true });
});

const cases = await (await fetch(local.url)).json();
assert.ok(cases.length > 0);

for (const name of cases) {
  test(`contract: ${name}`, async () => {
    const answer = await fetch(new URL(name, local.url), { method: "POST" });
    assert.equal(await answer.text(), "ok");
  });
}
