// How much memory the registry's isolate uses while layers are pushed at once.
//
// A Worker's 128 MB hold three things: Python's linear memory, V8's heap with what the runtime keeps for its objects,
// and ArrayBuffers, among them the registry's buffers. V8's inspector and a route of bench_entry.py tell them.
import { createHash, randomFillSync } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { HttpError } from "./client.mjs";
import { connectInspector } from "./inspector.mjs";

const SAMPLE_EVERY = 100; // milliseconds
const SLICE_SIZE = 64 * 1024; // bytes of a piece in chunked transfer encoding
const TRICKLE_SIZE = 1024; // bytes that a slow client sends
const TRICKLE_EVERY = 100; // milliseconds
const BUSY = [429, 503]; // statuses after which a client comes again
const BROKEN = ["ECONNRESET", "EPIPE"]; // the same answer, lost because the body had not been read
const BROKEN_RETRY_AFTER = 5000; // milliseconds
const MAX_ATTEMPTS = 20;

// What startLocal and startRuntime need for it.
export const MEASURABLE = { entry: "bench_entry", sources: ["src", "bench/entry"], inspectorPort: 0 };

// Samples V8 until `stop`, which returns the peaks in bytes:
//   buffers      the registry's, counted by itself: never between two samples; `limit` is what it allows
//   linear       Python's memory, which never shrinks
//   heap         V8's heap with garbage that was not collected yet, and the runtime's objects
//   arrayBuffers all of them, also those that wait to be collected; the registry's are among them
//   together     the most of all in one sample
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

// Pushes `count` layers of `size` bytes at once as docker does, each from the start again when the registry is busy,
// while `trickling` more clients send a little now and then. Returns {seconds, retries, refused, broken}: retries are the
// layers', refused the slow clients' requests; broken is how many of either lost their answer with their connection.
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
      await comeAgain(error, run);
      run.retries += 1;
    }
  }
  const head = await client.send("HEAD", `/v2/memory/app/blobs/${digest}`);
  if (head.headers["content-length"] !== String(size)) throw new Error(`${digest} has ${head.headers["content-length"]} bytes`);
}

// Waits as long as a busy registry asks for; what is no refusal is thrown again.
async function comeAgain(error, run) {
  if (error instanceof HttpError && BUSY.includes(error.status)) {
    await sleep(Number(error.headers["retry-after"] ?? 1) * 1000);
  } else if (BROKEN.includes(error.cause?.code)) {
    run.broken += 1;
    await sleep(BROKEN_RETRY_AFTER);
  } else {
    throw error;
  }
}

// A layer of its own that shares all but its beginning with the others: the client needs memory, too.
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
      await comeAgain(error, run);
      run.refused += 1;
    }
  }
}
