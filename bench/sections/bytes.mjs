// Throughput of blobs of different sizes: pushed in one request, pushed in docker's way, pulled.
import { execFileSync } from "node:child_process";
import { randomFillSync } from "node:crypto";

import { digestOf, inSlices } from "../support/client.mjs";
import { compared, inTurn, sayRows } from "../support/compare.mjs";
import { MIB } from "../support/report.mjs";
import { startBare, startDockerRegistry, startOurs } from "../support/targets.mjs";

const SLICE_SIZE = MIB; // bytes of a piece in chunked transfer encoding
const NAME = "bench/bytes";
const MIN_RATIO = 0.9; // budget: the registry's speed over the bare Worker's
// Size in bytes, and the number of pushes and pulls in a sample: short operations are repeated.
const SIZES = [
  { label: "1 KiB", size: 1024, pushes: 40, pulls: 40 },
  { label: "1 MiB", size: MIB, pushes: 20, pulls: 20 },
  { label: "64 MiB", size: 64 * MIB, pushes: 1, pulls: 8 },
  { label: "256 MiB", size: 256 * MIB, pushes: 1, pulls: 2 },
];

// Each function pushes a blob to a side (a registry or the bare Worker), and returns the path to pull it from.
const REGISTRY = {
  async monolithic({ client }, { data, digest }) {
    await client.pushMonolithic(NAME, data, digest);
    return `/v2/${NAME}/blobs/${digest}`;
  },
  async chunked({ client }, { data, digest }) {
    await client.pushChunked(NAME, inSlices(data, SLICE_SIZE), digest);
    return `/v2/${NAME}/blobs/${digest}`;
  },
};
const bareWith = (route) => async ({ client }, { data, digest }) => {
  const body = route === "parts" ? inSlices(data, SLICE_SIZE) : data;
  await client.send("PUT", `/${route}/${digest}`, { body, headers: { "x-sha256": digest.slice("sha256:".length) } });
  return `/${route}/${digest}`;
};
const BARE = { monolithic: bareWith("put"), chunked: bareWith("put") };
// The same with the work that the registry needs: R2 checks the digest, or gets parts.
const BARE_WITH_CHECKS = { monolithic: bareWith("checked"), chunked: bareWith("parts") };

export async function run(rounds) {
  const [ours, bare, peer] = [await startOurs(), await startBare(), await startDockerRegistry()];
  const sides = { registry: [ours, REGISTRY], "bare Worker": [bare, BARE], "docker-registry": [peer, REGISTRY] };
  const withChecks = { registry: [ours, REGISTRY], "the same, checked": [bare, BARE_WITH_CHECKS] };
  const rows = [];
  const explaining = [];
  try {
    for (const kind of SIZES) {
      const { size } = kind;
      const budgets = size >= MIB ? { "bare Worker": { atLeast: MIN_RATIO } } : {};
      for (const way of ["chunked", "monolithic"]) rows.push(...(await pushedAndPulled(sides, rounds, kind, way, budgets, way === "monolithic")));
      if (size !== 64 * MIB) continue;
      for (const way of ["monolithic", "chunked"]) explaining.push(...(await pushedAndPulled(withChecks, rounds, kind, way, {}, true)));
    }
    sayRows("MiB/s", rows, 1);
    sayRows("MiB/s beside a bare Worker that has R2 check the digest (monolithic), or uploads parts (chunked)", explaining, 1);
    return { rows, explaining };
  } finally {
    await Promise.all([ours, bare, peer].map((target) => target.dispose()));
  }
}

// The rows of pushing one way and, if `pull` is set, of pulling those blobs.
async function pushedAndPulled(sides, rounds, kind, way, budgets, pull) {
  const at = new Map();
  const pushes = await inTurn(sides, rounds, ([target, ways], side) => pushed(kind, target, ways[way], (path) => at.set(side, path)));
  const rows = [compared(`push ${way}, ${kind.label}`, "MiB/s", pushes, budgets)];
  if (!pull) return rows;
  const pulls = await inTurn(sides, rounds, ([target], side) => pulled(kind, target, at.get(side)));
  return [...rows, compared(`pull what came ${way}, ${kind.label}`, "MiB/s", pulls, budgets)];
}

// Pushes fresh blobs and returns MiB per second; `keep` gets the path of the last one.
async function pushed({ size, pushes }, target, push, keep) {
  const blobs = Array.from({ length: pushes }, () => {
    const data = randomFillSync(Buffer.allocUnsafe(size));
    return { data, digest: digestOf(data) };
  });
  execFileSync("sync"); // so that writes of the previous sample are not measured
  const start = performance.now();
  let path;
  for (const blob of blobs) path = await push(target, blob);
  const seconds = (performance.now() - start) / 1000;
  keep(path);
  return (size * pushes) / MIB / seconds;
}

async function pulled({ size, pulls }, target, path) {
  const start = performance.now();
  for (let time = 0; time < pulls; time += 1) {
    const answer = await target.client.send("GET", path, { headers: { "accept-encoding": "gzip" } });
    if (answer.size !== size || answer.headers["content-length"] !== String(size)) throw new Error(`${path}: got ${answer.size} bytes, expected ${size}; Content-Length was ${answer.headers["content-length"]}`);
  }
  return (size * pulls) / MIB / ((performance.now() - start) / 1000);
}
