// Kind B: memory that no ledger counted. The loads of `make bench-memory`, smaller, one after the other: the
// isolate stays below what Cloudflare allows, another client works after each, and no room stays taken.
import assert from "node:assert/strict";
import { dirname, resolve } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Client, CREDENTIALS } from "../../bench/support/client.mjs";
import { loads } from "../../bench/support/loads.mjs";
import { MEASURABLE, watchMemory } from "../../bench/support/memory.mjs";
import { MIB } from "../../bench/support/report.mjs";
import { startRuntime } from "../../runtime/local.mjs";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const SCALE = 0.25;
const MAX_ISOLATE = 110 * MIB; // Cloudflare ends an isolate at 128 MB

const started = [];
after(() => Promise.all(started.map(({ local, client }) => (client.close(), local.dispose()))));

async function start() {
  const local = await startRuntime({ root: ROOT, vars: CREDENTIALS, onLog: () => {}, ...MEASURABLE });
  const client = new Client(local.url);
  started.push({ local, client });
  await client.startUpload("memory/first"); // so that there is something to ask
  return { local, client };
}

// The buffers of uploads stay allocated: they have an isolate of their own.
const [uploads, ...documents] = loads(SCALE);
for (const group of [[uploads], documents]) {
  const { local, client } = await start();
  for (const { name, run } of group) {
    test(name, async (context) => {
      const watch = await watchMemory({ client, miniflare: local.miniflare });
      await run(client, local.url);
      const peaks = await watch.stop();
      context.diagnostic(JSON.stringify(peaks));
      assert.ok(peaks.together < MAX_ISOLATE, `${peaks.together} bytes together`);
      assert.equal((await fetch(new URL("/healthz", local.url))).status, 200);
      await client.startUpload("memory/after");
    });
  }
}

test("no room stays taken", async () => {
  for (const { client } of started) {
    let text = "";
    await client.send("GET", "/bench/memory", { onData: (data) => (text += data) });
    assert.equal(JSON.parse(text).held, 0);
  }
});
