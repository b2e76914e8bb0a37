// Measures the memory of pushes and attacks: of the isolate, which has 128 MB on Cloudflare, and of workerd's process.
//
// Environment: ROUNDS=3 (of the process)  JSON=1  BUDGET=1 (exit code 1 when a budget is missed)
import { createHash, randomFillSync } from "node:crypto";

import { loads } from "./support/loads.mjs";
import { MEASURABLE, pushAtOnce, watchMemory } from "./support/memory.mjs";
import { finish, inMib, MACHINE, median, MIB, say, sayTable } from "./support/report.mjs";
import { startBare, startOurs } from "./support/targets.mjs";
import { residentBytes, resetPeak } from "./support/workerd.mjs";

const ROUNDS = Number(process.env.ROUNDS ?? 3);
const AT_ONCE = { count: 20, size: 64 * MIB }; // layers, bytes of each
const TRICKLING = 10; // clients
const LARGE_SIZE = 600 * MIB; // bytes
const MAX_ISOLATE = 110 * MIB; // budget in bytes: Cloudflare ends an isolate at 128 MB
const MAX_RSS_RATIO = 1.3; // budget: growth of the registry's process over that of the bare Worker's

// ---------------------------------------------------------------------- the isolate
async function isolateMemory(trickling) {
  const { client, runtime, dispose } = await startOurs(MEASURABLE);
  try {
    await client.startUpload("memory/first"); // so that the registry exists and can be measured
    const watch = await watchMemory({ client, miniflare: runtime.miniflare });
    const run = await pushAtOnce(client, { ...AT_ONCE, trickling });
    return { trickling, ...run, ...(await watch.stop()) };
  } finally {
    await dispose();
  }
}

function sayIsolate(results) {
  sayTable(
    results.map((result) => ({
      "isolate, MiB at most": `${AT_ONCE.count} layers of ${inMib(AT_ONCE.size)} at once${result.trickling ? `, ${result.trickling} slow clients` : ""}`,
      "own buffers": inMib(result.buffers),
      "all ArrayBuffers": inMib(result.arrayBuffers),
      "linear memory": inMib(result.linear),
      "V8's heap": inMib(result.heap),
      together: inMib(result.together),
      budget: `< ${inMib(MAX_ISOLATE)} ${isSmall(result) ? "met" : "MISSED"}`,
      samples: result.samples,
      seconds: result.seconds.toFixed(0),
      retries: result.retries,
      "slow refused": result.refused,
      "broken connections": result.broken,
    })),
  );
}

const isSmall = ({ together }) => together < MAX_ISOLATE;

// ---------------------------------------------------------------------- attacks
// Each attack runs on a fresh registry, so that no memory of the previous one is measured.
async function attackMemory({ name, run }) {
  const { client, runtime, dispose } = await startOurs(MEASURABLE);
  try {
    await client.startUpload("memory/first"); // so that the registry exists and can be measured
    const watch = await watchMemory({ client, miniflare: runtime.miniflare });
    const began = performance.now();
    const { milliseconds } = (await run(client, new URL(runtime.url))) ?? {};
    return { name, milliseconds, seconds: (performance.now() - began) / 1000, ...(await watch.stop()) };
  } finally {
    await dispose();
  }
}

function sayAttacks(results) {
  sayTable(
    results.map((result) => ({
      "attack on an isolate, MiB at most": result.name,
      "own buffers": inMib(result.buffers),
      "all ArrayBuffers": inMib(result.arrayBuffers),
      "linear memory": inMib(result.linear),
      "V8's heap": inMib(result.heap),
      together: inMib(result.together),
      budget: `< ${inMib(MAX_ISOLATE)} ${isSmall(result) ? "met" : "MISSED"}`,
      seconds: result.seconds.toFixed(0),
      "another client's PATCH, ms": result.milliseconds ?? "",
    })),
  );
}

// ---------------------------------------------------------------------- the process
// The peak growth of workerd in bytes while one large layer is pushed to a fresh runtime.
async function growth(start, push) {
  const { client, pid, dispose } = await start();
  try {
    await push(client, 1); // warm-up: the first push takes memory once for all
    resetPeak(pid);
    const before = residentBytes(pid).now;
    await push(client, LARGE_SIZE);
    return { before, growth: residentBytes(pid).peak - before };
  } finally {
    await dispose();
  }
}

const block = randomFillSync(Buffer.alloc(MIB));

function* blocks(size) {
  for (let left = size; left > 0; left -= block.length) yield left < block.length ? block.subarray(0, left) : block;
}

async function pushOurs(client, size) {
  const hash = createHash("sha256");
  for (const piece of blocks(size)) hash.update(piece);
  await client.pushChunked("memory/large", blocks(size), `sha256:${hash.digest("hex")}`);
}

const pushBare = (client, size) => client.send("PUT", `/put/${size}`, { body: blocks(size), length: size });

async function processMemory() {
  const rounds = { ours: [], bare: [] };
  for (let round = 0; round < ROUNDS; round += 1) {
    rounds.ours.push(await growth(startOurs, pushOurs));
    rounds.bare.push(await growth(startBare, pushBare));
  }
  const medianGrowth = (side) => median(rounds[side].map(({ growth }) => growth));
  const ratio = medianGrowth("ours") / medianGrowth("bare");
  return { rounds, ours: medianGrowth("ours"), bare: medianGrowth("bare"), ratio, met: ratio < MAX_RSS_RATIO };
}

function sayProcess({ rounds, ours, bare, ratio, met }) {
  const all = (side) => rounds[side].map(({ before, growth }) => `${inMib(before)} + ${inMib(growth)}`).join(", ");
  sayTable([
    { "process, MiB resident before + growth": `registry, ${inMib(LARGE_SIZE)} in chunks`, "each round": all("ours"), "median growth": inMib(ours), ratio: ratio.toFixed(2), budget: `< ${MAX_RSS_RATIO} ${met ? "met" : "MISSED"}` },
    { "process, MiB resident before + growth": `bare Worker, ${inMib(LARGE_SIZE)} with Content-Length`, "each round": all("bare"), "median growth": inMib(bare) },
  ]);
}

say(`${MACHINE}, ${ROUNDS} rounds of each process\n`);
const isolate = [];
for (const trickling of [0, TRICKLING]) isolate.push(await isolateMemory(trickling));
sayIsolate(isolate);
const attacks = [];
for (const load of loads()) attacks.push(await attackMemory(load));
sayAttacks(attacks);
const processes = await processMemory();
sayProcess(processes);
const missed = !processes.met || ![...isolate, ...attacks].every(isSmall);
finish({ machine: MACHINE, isolate, attacks, process: processes, budgets: { isolateBytes: MAX_ISOLATE, processRatio: MAX_RSS_RATIO } }, { failed: missed && process.env.BUDGET === "1" });
