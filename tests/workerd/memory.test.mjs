// The memory of the isolate while layers are pushed at once; bench/memory.mjs does more of it.
import assert from "node:assert/strict";
import { dirname, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { Client, CREDENTIALS } from "../../bench/support/client.mjs";
import { MEASURABLE, pushAtOnce, watchMemory } from "../../bench/support/memory.mjs";
import { MIB } from "../../bench/support/report.mjs";
import { toStderr } from "../../bench/support/targets.mjs";
import { startRuntime } from "../../runtime/local.mjs";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const LAYERS = { count: 8, size: 24 * MIB, trickling: 3 };
const MAX_ISOLATE = 110 * MIB; // Cloudflare ends an isolate at 128 MB

test("pushes at once stay within the isolate's memory", async (context) => {
  const local = await startRuntime({ root: ROOT, vars: CREDENTIALS, onLog: toStderr, ...MEASURABLE });
  context.after(() => local.dispose());
  const client = new Client(local.url);
  context.after(() => client.close());
  await client.startUpload("memory/first"); // so that there is something to ask
  const watch = await watchMemory({ client, miniflare: local.miniflare });
  await pushAtOnce(client, LAYERS);
  const peaks = await watch.stop();
  context.diagnostic(JSON.stringify(peaks));
  assert.ok(peaks.buffers <= peaks.limit, `${peaks.buffers} bytes in buffers`);
  assert.ok(peaks.together < MAX_ISOLATE, `${peaks.together} bytes together`);
});
