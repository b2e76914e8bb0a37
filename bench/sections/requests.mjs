// Small requests: their rate and latency, compared with a Python Worker that makes only the same R2 call (the floor of
// the interpreter), a JavaScript Worker, and docker-registry.
import { createHash } from "node:crypto";

import { AUTHORIZATION } from "../support/client.mjs";
import { compared, inTurn, sayRows, shown, spread } from "../support/compare.mjs";
import { load } from "../support/load.mjs";
import { sayTable } from "../support/report.mjs";
import { startBare, startDockerRegistry, startFloor, startOurs } from "../support/targets.mjs";

const NAME = "bench/requests";
const CONFIG = Buffer.from("{}");
const MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json";
const digestOf = (data) => `sha256:${createHash("sha256").update(data).digest("hex")}`;
const MANIFEST = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: digestOf(CONFIG), size: CONFIG.length },
    layers: [],
  }),
);
const REQUESTS = { 1: 400, 16: 1600 }; // requests in one sample, by the number of connections
const MIN_RATIO = 0.8; // budget: the registry's requests per second over the floor's
const BUDGET = { floor: { atLeast: MIN_RATIO } };

const ENDPOINTS = {
  "/v2/": { method: "GET", path: "/v2/" },
  "HEAD blob": { method: "HEAD", path: `/v2/${NAME}/blobs/${digestOf(CONFIG)}`, budgets: BUDGET },
  "GET manifest": { method: "GET", path: `/v2/${NAME}/manifests/${digestOf(MANIFEST)}`, budgets: BUDGET },
  "HEAD manifest by tag": { method: "HEAD", path: `/v2/${NAME}/manifests/latest` },
};

export async function run(rounds) {
  const sides = { registry: await startOurs(), floor: await startFloor(), "bare Worker": await startBare(), "docker-registry": await startDockerRegistry() };
  const headers = { authorization: AUTHORIZATION, accept: MANIFEST_TYPE };
  try {
    for (const side of [sides.registry, sides["docker-registry"]]) {
      await side.client.pushMonolithic(NAME, CONFIG, digestOf(CONFIG));
      await side.client.send("PUT", ENDPOINTS["HEAD manifest by tag"].path, { body: MANIFEST, headers: { "content-type": MANIFEST_TYPE } });
    }
    for (const side of [sides.floor, sides["bare Worker"]]) {
      for (const { path } of Object.values(ENDPOINTS)) if (path !== "/v2/") await side.client.send("PUT", path, { body: path.includes("/blobs/") ? CONFIG : MANIFEST });
    }
    const rows = [];
    for (const [name, { budgets, ...endpoint }] of Object.entries(ENDPOINTS)) {
      for (const [connections, requests] of Object.entries(REQUESTS)) {
        const samples = await inTurn(sides, rounds, (side) => load(side.runtime.url, { ...endpoint, headers }, { connections: Number(connections), requests }));
        const of = (field) => Object.fromEntries(Object.entries(samples).map(([side, taken]) => [side, taken.map((sample) => sample[field])]));
        const row = compared(`${name}, ${connections} connection${connections === "1" ? "" : "s"}`, "requests/s", of("perSecond"), budgets);
        row.milliseconds = { p50: spreads(of("p50")), p99: spreads(of("p99")) };
        rows.push(row);
      }
    }
    sayRows("requests a second", rows);
    sayTimes(rows, "p50");
    sayTimes(rows, "p99");
    return { rows };
  } finally {
    await Promise.all(Object.values(sides).map((side) => side.dispose()));
  }
}

const spreads = (samples) => Object.fromEntries(Object.entries(samples).map(([side, values]) => [side, spread(values)]));

function sayTimes(rows, quantile) {
  sayTable(
    rows.map(({ name, milliseconds }) => ({
      [`${quantile}, milliseconds`]: name,
      ...Object.fromEntries(Object.entries(milliseconds[quantile]).map(([side, values]) => [side, shown(values, 2)])),
    })),
  );
}
