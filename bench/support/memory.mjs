// Measures the memory of the registry's isolate during concurrent pushes.
//
// A Worker's 128 MB hold three things: Python's linear memory, V8's heap with what the runtime keeps for its objects,
// and ArrayBuffers, among them the registry's buffers. V8's inspector and a route of bench_entry.py report them.
import { createHash, randomFillSync } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { HttpError } from "./client.mjs";
import { connectInspector } from "./inspector.mjs";

const SAMPLE_EVERY = 100; // milliseconds
const SLICE_SIZE = 64 * 1024; // bytes of a piece in chunked transfer encoding
const TRICKLE_SIZE = 1024; // bytes that a slow client sends
const TRICKLE_EVERY = 100; // milliseconds
const BUSY = [429, 503]; // statuses that a client retries
const BROKEN = ["ECONNRESET", "EPIPE"]; // such a response was lost since the registry had not read the body
const BROKEN_RETRY_AFTER = 5000; // milliseconds
const MAX_ATTEMPTS = 20;

// Options of startLocal and startRuntime for a measurable registry.
export const MEASURABLE = { entry: "bench_entry", sources: ["src", "bench/entry"], inspectorPort: 0 };

// Samples V8 until `stop`, which returns the peaks in bytes:
//   buffers      the registry's buffers by its own exact count; `limit` is their limit
//   linear       Python's memory, which never shrinks
//   heap         V8's heap, including garbage, and the runtime's objects
//   arrayBuffers all ArrayBuffers, including garbage and the registry's buffers
//   together     the largest sum of heap, ArrayBuffers and linear memory in one sample
export async function watchMemory({ client, miniflare }) {
  const inspector = await connectInspector(miniflare);
  const samples = [];
  let stopped = false;
  const sampling = (async () => {
    while (!stopped) {
      samples.push(await inspector.heapUsage());
      await sleep(SAMPLE_EVERY);
    }
  })();
  return {
    async stop() {
      stopped = true;
      await sampling;
      inspector.close();
      return peaksOf(samples, await ownCounters(client));
    },
  };
}

async function ownCounters(client) {
  let text = "";
  await client.send("GET", "/bench/memory", { onData: (data) => (text += data) });
  return JSON.parse(text);
}

function peaksOf(samples, own) {
  const peak = (bytes) => Math.max(...samples.map(bytes));
  const heap = ({ usedSize, embedderHeapUsedSize }) => usedSize + embedderHeapUsedSize;
  return {
    samples: samples.length,
    limit: own.limit,
    buffers: own.peak,
    linear: own.linear,
    heap: peak(heap),
    arrayBuffers: peak(({ backingStorageSize }) => backingStorageSize),
    together: peak((sample) => heap(sample) + sample.backingStorageSize) + own.linear,
  };
}

// Pushes `count` layers of `size` bytes concurrently in docker's way, and restarts a layer when the registry is busy.
// Meanwhile `trickling` further clients send slowly. Returns {seconds, retries, refused, broken}: the retries of
// layers, the refused requests of slow clients, and the requests of either that lost their response.
export async function pushAtOnce(client, { count, size, trickling = 0 }) {
  const common = randomFillSync(Buffer.alloc(size));
  const run = { over: false, retries: 0, refused: 0, broken: 0 };
  const slow = Array.from({ length: trickling }, () => trickle(client, run));
  const start = performance.now();
  try {
    await Promise.all(Array.from({ length: count }, () => pushLayer(client, layerLike(common), run)));
  } finally {
    run.over = true;
  }
  const seconds = (performance.now() - start) / 1000;
  await Promise.all(slow);
  return { seconds, retries: run.retries, refused: run.refused, broken: run.broken };
}

async function pushLayer(client, { slices, digest, size }, run) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await client.pushChunked("memory/app", slices(), digest);
      break;
    } catch (error) {
      if (attempt === MAX_ATTEMPTS) throw error;
      await waitForRetry(error, run);
      run.retries += 1;
    }
  }
  const head = await client.send("HEAD", `/v2/memory/app/blobs/${digest}`);
  if (head.headers["content-length"] !== String(size)) throw new Error(`${digest} has ${head.headers["content-length"]} bytes`);
}

// Waits for the Retry-After of a busy registry; rethrows any other error.
async function waitForRetry(error, run) {
  if (error instanceof HttpError && BUSY.includes(error.status)) {
    await sleep(Number(error.headers["retry-after"] ?? 1) * 1000);
  } else if (BROKEN.includes(error.cause?.code)) {
    run.broken += 1;
    await sleep(BROKEN_RETRY_AFTER);
  } else {
    throw error;
  }
}

// A unique layer that shares all but its first bytes with the others, to save the client's memory.
function layerLike(common) {
  const beginning = randomFillSync(Buffer.alloc(SLICE_SIZE));
  function* slices() {
    yield beginning;
    for (let at = SLICE_SIZE; at < common.length; at += SLICE_SIZE) yield common.subarray(at, at + SLICE_SIZE);
  }
  const hash = createHash("sha256");
  for (const slice of slices()) hash.update(slice);
  return { slices, digest: `sha256:${hash.digest("hex")}`, size: common.length };
}

async function trickle(client, run) {
  async function* drops() {
    while (!run.over) {
      yield Buffer.alloc(TRICKLE_SIZE, "drop");
      await sleep(TRICKLE_EVERY);
    }
  }
  while (!run.over) {
    try {
      await client.send("PATCH", await client.startUpload("memory/slow"), { body: drops() });
    } catch (error) {
      await waitForRetry(error, run);
      run.refused += 1;
    }
  }
}
