// The memory of a collection at scale, in the interpreter that Cloudflare runs.
import assert from "node:assert/strict";
import { test } from "node:test";

import { MIB } from "../../bench/support/report.mjs";
import { measure } from "../heap.mjs";

const MAX_HEAP = 40 * MIB; // of the 128 MB of an isolate, beside the interpreter
const MAX_CALLS = 2; // of a thousand objects

test("a collection of 1.7 million objects fits an isolate and an invocation", async (context) => {
  const { heap, calls, objects } = await measure();
  context.diagnostic(`${(heap / MIB).toFixed(1)} MiB, ${calls} calls, ${objects} objects`);
  assert.ok(heap <= MAX_HEAP, `${heap} bytes`);
  assert.ok(calls <= (MAX_CALLS * objects) / 1000, `${calls} calls`);
});
