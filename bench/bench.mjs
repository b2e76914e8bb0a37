// How fast the registry moves bytes, beside a bare Worker that hands them to R2 and back, and what that costs in CPU
// time. Both run in one go, in turn, because machines are noisy: only the ratios mean something elsewhere.
//
// ROUNDS=7  JSON=1  BUDGET=1 (exit code 1 when a budget is missed)
import { execFileSync } from "node:child_process";
import { randomFillSync } from "node:crypto";

import { digestOf, inSlices } from "./support/client.mjs";
import { finish, GIB, MACHINE, median, MIB, say, sayTable } from "./support/report.mjs";
import { startBare, startOurs } from "./support/targets.mjs";
import { cpuSeconds } from "./support/workerd.mjs";

const ROUNDS = Number(process.env.ROUNDS ?? 7);
const LAYER_SIZE = 64 * MIB; // bytes
const SLICE_SIZE = MIB; // bytes of a piece in chunked transfer encoding
const PULLS = 16; // in one sample: a single one takes too short a time
const READS = 8; // in one sample: CPU time is counted in steps of 10 ms
const SMALL_SIZE = 1024; // bytes of the layers that show what a push costs whatever its size
const SMALL_PUSHES = 50; // in one sample
const MIN_SPEED_RATIO = 0.9; // budget: the registry's speed over the bare Worker's
const CPU_LIMITS = { "Free, 10 ms": 0.01, "Paid, 30 s": 30, "Paid at most, 300 s": 300 }; // seconds a request

const ours = await startOurs();
const bare = await startBare();

const layer = { data: Buffer.alloc(LAYER_SIZE), digest: "" };
let smallLayers;
// Where the layers lie that were pushed last, for the downloads.
const at = {};

// `ours` against `bare`: one sample each, in turn. `make` prepares a sample before its clock starts. A sample moves
// `size` bytes, in `pushes` pushes.
const MEASURES = {
  "push, monolithic": { budget: MIN_SPEED_RATIO, make: freshLayer, ours: pushMonolithic, bare: () => putBare("put") },
  "push, chunked (docker)": { budget: MIN_SPEED_RATIO, make: freshLayer, ours: pushChunked, bare: () => putBare("put") },
  pull: { budget: MIN_SPEED_RATIO, size: PULLS * LAYER_SIZE, make: settleDisk, ours: () => pull(ours, at.monolithic), bare: () => pull(bare, at.put) },
  "pull, Accept-Encoding: gzip": {
    budget: MIN_SPEED_RATIO,
    size: PULLS * LAYER_SIZE,
    make: settleDisk,
    ours: () => pull(ours, at.monolithic, { headers: { "accept-encoding": "gzip" } }),
    bare: () => pull(bare, at.put, { headers: { "accept-encoding": "gzip" } }),
  },
  // Without a budget, to explain the above. Checksums and parts cost Miniflare's R2 more than they cost Cloudflare's.
  "push, monolithic; bare with checksum": { make: freshLayer, ours: pushMonolithic, bare: () => putBare("checked", { headers: { "x-sha256": layer.digest.slice("sha256:".length) } }) },
  "push, chunked; bare chunked in parts": { make: freshLayer, ours: pushChunked, bare: () => putBare("parts", { body: inSlices(layer.data, SLICE_SIZE) }) },
  "pull, both in parts": { make: settleDisk, ours: () => pull(ours, at.chunked, {}, 1), bare: () => pull(bare, at.parts, {}, 1) },
  "read only": { size: READS * LAYER_SIZE, make: freshLayer, bare: () => repeated(READS, () => putBare("read")) },
  "read and hash": { size: READS * LAYER_SIZE, make: freshLayer, bare: () => repeated(READS, () => putBare("hash")) },
  "small pushes": {
    size: SMALL_PUSHES * SMALL_SIZE,
    pushes: SMALL_PUSHES,
    make() {
      smallLayers = Array.from({ length: SMALL_PUSHES }, () => randomFillSync(Buffer.alloc(SMALL_SIZE)));
    },
    async ours() {
      for (const data of smallLayers) await ours.client.pushChunked("bench/small", [data], digestOf(data));
    },
    async bare() {
      for (const data of smallLayers) await bare.client.send("PUT", `/put/${digestOf(data)}`, { body: data });
    },
  },
};

function freshLayer() {
  randomFillSync(layer.data);
  layer.digest = digestOf(layer.data);
}

// Lets the disk finish what the pushes left to do.
function settleDisk() {
  execFileSync("sync");
}

async function pushMonolithic() {
  await ours.client.pushMonolithic("bench/app", layer.data, layer.digest);
  at.monolithic = `/v2/bench/app/blobs/${layer.digest}`;
}

async function pushChunked() {
  await ours.client.pushChunked("bench/app", inSlices(layer.data, SLICE_SIZE), layer.digest);
  at.chunked = `/v2/bench/app/blobs/${layer.digest}`;
}

async function putBare(route, options) {
  at[route] = `/${route}/${layer.digest}`;
  await bare.client.send("PUT", at[route], { body: layer.data, ...options });
}

async function pull(target, path, options, times = PULLS) {
  await repeated(times, async () => {
    const { size, headers } = await target.client.send("GET", path, options);
    const announced = headers["content-length"];
    if (size !== LAYER_SIZE || announced !== String(LAYER_SIZE)) throw new Error(`${path}: ${size} bytes came, ${announced} were announced`);
  });
}

async function repeated(times, run) {
  for (let time = 0; time < times; time += 1) await run();
}

// ---------------------------------------------------------------------- measuring
const SIDES = { ours, bare };

async function sampled(measure, side) {
  await measure.make?.();
  const cpu = cpuSeconds(SIDES[side].pid);
  const start = performance.now();
  await measure[side]();
  return { seconds: (performance.now() - start) / 1000, cpu: cpuSeconds(SIDES[side].pid) - cpu };
}

// {ours: [sample of each round], bare: [...]}; a round before the first warms up.
async function run(measure) {
  const samples = { ours: [], bare: [] };
  for (let round = -1; round < ROUNDS; round += 1) {
    // The order changes, so that neither side always comes after the other.
    for (const side of round % 2 ? ["ours", "bare"] : ["bare", "ours"]) {
      if (!measure[side]) continue;
      const sample = await sampled(measure, side);
      if (round >= 0) samples[side].push(sample);
    }
  }
  return samples;
}

const spread = (values) => ({ median: median(values), min: Math.min(...values), max: Math.max(...values) });

function evaluated(name, { budget, size = LAYER_SIZE, pushes = 1 }, samples) {
  const row = { name, budget };
  for (const side of Object.keys(SIDES)) {
    if (samples[side].length === 0) continue;
    row[side] = {
      mibPerSecond: spread(samples[side].map(({ seconds }) => size / MIB / seconds)),
      cpuSecondsPerGib: spread(samples[side].map(({ cpu }) => cpu / (size / GIB))),
      cpuSecondsPerPush: spread(samples[side].map(({ cpu }) => cpu / pushes)),
    };
  }
  if (row.ours) row.ratio = row.ours.mibPerSecond.median / row.bare.mibPerSecond.median;
  if (budget !== undefined) row.met = row.ratio >= budget;
  return row;
}

// CPU seconds that a push in chunks costs: what grows with the layer, and what every push costs.
function costsOf(rows) {
  const perGib = (name, side) => rows[name][side].cpuSecondsPerGib.median;
  const hashing = perGib("read and hash", "bare") - perGib("read only", "bare");
  const chunked = perGib("push, chunked (docker)", "ours") - perGib("push, chunked (docker)", "bare");
  const small = rows["small pushes"];
  return {
    hashingPerGib: hashing,
    chunkedPerGib: chunked,
    smallPush: small.ours.cpuSecondsPerPush.median - small.bare.cpuSecondsPerPush.median,
    largestLayerMib: Object.fromEntries(Object.entries(CPU_LIMITS).map(([limit, seconds]) => [limit, (seconds / Math.max(hashing, chunked)) * (GIB / MIB)])),
  };
}

// ---------------------------------------------------------------------- telling
const shown = ({ median, min, max }, digits) => `${median.toFixed(digits)} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;

function sayAll(rows, costs) {
  const large = Object.values(rows).filter(({ name }) => name !== "small pushes");
  sayTable(
    large.map(({ name, ours, bare, ratio, budget, met }) => ({
      "MiB/s": name,
      registry: ours && shown(ours.mibPerSecond, 0),
      "bare Worker": shown(bare.mibPerSecond, 0),
      ratio: ratio?.toFixed(2),
      budget: budget && `>= ${budget} ${met ? "met" : "MISSED"}`,
    })),
  );
  sayTable(
    large.map(({ name, ours, bare }) => ({
      "CPU seconds per GiB, R2 included": name,
      registry: ours && shown(ours.cpuSecondsPerGib, 2),
      "bare Worker": shown(bare.cpuSecondsPerGib, 2),
      difference: ours && (ours.cpuSecondsPerGib.median - bare.cpuSecondsPerGib.median).toFixed(2),
    })),
  );
  say("CPU beyond the bare Worker's");
  say(`  hashing (SHA-256 in DigestStream)   ${costs.hashingPerGib.toFixed(2)} s per GiB`);
  say(`  all of a chunked push               ${costs.chunkedPerGib.toFixed(2)} s per GiB`);
  say(`  all of a push of ${SMALL_SIZE} bytes          ${(costs.smallPush * 1000).toFixed(1)} ms, in three requests`);
  say("Largest layer in chunks, by the larger of the first two, where a request may use so much CPU. The milliseconds that");
  say("every request costs are not taken off: they matter on Free only");
  for (const [limit, mib] of Object.entries(costs.largestLayerMib)) say(`  ${limit.padEnd(22)} ${mib.toFixed(0)} MiB`);
}

try {
  say(`Layers of ${LAYER_SIZE / MIB} MiB, ${ROUNDS} rounds, ${MACHINE}. Median (minimum to maximum); ratios of medians.\n`);
  const rows = {};
  for (const [name, measure] of Object.entries(MEASURES)) rows[name] = evaluated(name, measure, await run(measure));
  const costs = costsOf(rows);
  sayAll(rows, costs);
  const missed = Object.values(rows).some(({ met }) => met === false);
  finish({ machine: MACHINE, rounds: ROUNDS, layerBytes: LAYER_SIZE, measures: Object.values(rows), cpuSeconds: costs }, { failed: missed && process.env.BUDGET === "1" });
} finally {
  await Promise.all([ours.dispose(), bare.dispose()]);
}
