// CPU time of a push in chunks beyond a bare Worker's: per GiB of the layer, and per push. From these follows the
// largest layer under the CPU limit of a request.
import { randomFillSync } from "node:crypto";

import { digestOf, inSlices } from "../support/client.mjs";
import { inTurn, shown, spread } from "../support/compare.mjs";
import { GIB, MIB, say } from "../support/report.mjs";
import { startBare, startOurs } from "../support/targets.mjs";
import { cpuSeconds } from "../support/workerd.mjs";

const LAYER_SIZE = 64 * MIB; // bytes
const SLICE_SIZE = MIB; // bytes of a piece in chunked transfer encoding
const TIMES = 4; // layers in one sample, since Linux counts CPU time in steps of 10 ms
const SMALL_SIZE = 1024; // bytes of the layers that show the fixed cost of a push
const SMALL_PUSHES = 50; // in one sample
const LIMITS = { "Free, 10 ms": 0.01, "Paid, 30 s": 30, "Paid at most, 300 s": 300 }; // CPU seconds per request

export async function run(rounds) {
  const [ours, bare] = [await startOurs(), await startBare()];
  const large = (route) => [bare, LAYER_SIZE, TIMES, (data) => bare.client.send("PUT", `/${route}/${digestOf(data)}`, { body: data })];
  const small = (data) => bare.client.send("PUT", `/put/${digestOf(data)}`, { body: data });
  const sides = {
    read: large("read"),
    hash: large("hash"),
    put: large("put"),
    push: [ours, LAYER_SIZE, TIMES, (data) => ours.client.pushChunked("bench/cpu", inSlices(data, SLICE_SIZE), digestOf(data))],
    smallPut: [bare, SMALL_SIZE, SMALL_PUSHES, small],
    smallPush: [ours, SMALL_SIZE, SMALL_PUSHES, (data) => ours.client.pushChunked("bench/cpu", [data], digestOf(data))],
  };
  try {
    const samples = await inTurn(sides, rounds, cpuOfOne);
    const beyond = (side, base, unit) => spread(samples[side].map((seconds, round) => (seconds - samples[base][round]) / unit));
    const hashing = beyond("hash", "read", LAYER_SIZE / GIB);
    const pushing = beyond("push", "put", LAYER_SIZE / GIB);
    const smallPush = beyond("smallPush", "smallPut", 1);
    const perGib = Math.max(hashing.median, pushing.median);
    const largestMib = Object.fromEntries(Object.entries(LIMITS).map(([limit, seconds]) => [limit, (seconds / perGib) * (GIB / MIB)]));
    say("CPU beyond the bare Worker's");
    say(`  hashing (SHA-256 in DigestStream)   ${shown(hashing, 2)} s per GiB`);
    say(`  all of a push in chunks             ${shown(pushing, 2)} s per GiB`);
    say(`  all of a push of ${SMALL_SIZE} bytes          ${shown(spread([smallPush.min, smallPush.median, smallPush.max].map((seconds) => seconds * 1000)), 1)} ms, in three requests`);
    say("Largest layer in chunks by that, without the milliseconds that every request costs");
    for (const [limit, mib] of Object.entries(largestMib)) say(`  ${limit.padEnd(22)} ${mib.toFixed(0)} MiB`);
    return { hashingPerGib: hashing, pushingPerGib: pushing, smallPush, largestMib };
  } finally {
    await Promise.all([ours.dispose(), bare.dispose()]);
  }
}

// The CPU seconds that workerd uses for one fresh blob of `size` bytes.
async function cpuOfOne([target, size, times, send]) {
  const blobs = Array.from({ length: times }, () => randomFillSync(Buffer.alloc(size)));
  const before = cpuSeconds(target.pid);
  for (const data of blobs) await send(data);
  return (cpuSeconds(target.pid) - before) / times;
}
