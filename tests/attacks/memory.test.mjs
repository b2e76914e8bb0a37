// Attacks on the memory of an isolate: the loads of `make bench-memory`, but smaller. The isolate stays
// below Cloudflare's limit, another client works after each load, and all memory pools are free at the end.
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
  await client.startUpload("memory/first"); // so that the registry exists and can be measured
  return { local, client };
}

// The load of uploads has an isolate of its own, since the buffers of uploads stay allocated.
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

test("all memory pools are free", async () => {
  for (const { client } of started) {
    let text = "";
    await client.send("GET", "/bench/memory", { onData: (data) => (text += data) });
    assert.equal(JSON.parse(text).held, 0);
  }
});
