import { load } from "./support/load.mjs";
import { startBare, startOurs } from "./support/targets.mjs";
import { digestOf } from "./support/client.mjs";
const ours = await startOurs();
const floor = await startOurs({ entry: "floor_entry", sources: ["src", "bench/entry"] });
const bare = await startBare();
const data = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(Buffer.from("{}")), size: 2 }, layers: [] }));
const conf = Buffer.from("{}");
await ours.client.pushMonolithic("bench/app", conf, digestOf(conf));
await ours.client.send("PUT", "/v2/bench/app/manifests/1", { body: data, headers: { "content-type": "application/vnd.oci.image.manifest.v1+json" } });
const b = `/v2/bench/app/blobs/${digestOf(conf)}`, m = `/v2/bench/app/manifests/${digestOf(data)}`, t = "/v2/bench/app/manifests/1";
await floor.client.send("PUT", b, { body: conf }); await floor.client.send("PUT", m, { body: data }); await floor.client.send("PUT", t, { body: data });
for (const p of [b, m, t]) await bare.client.send("PUT", `/put${p}`, { body: data });
const authorization = `Basic ${Buffer.from("hello:world").toString("base64")}`;
const F = { "/v2/": ["GET", "/v2/"], "HEAD blob": ["HEAD", b], "GET manifest": ["GET", m], "HEAD tag": ["HEAD", t] };
const R = Number(process.env.R ?? 400);
for (const connections of [1, 16]) for (const [n, [method, path]] of Object.entries(F)) {
  const out = { ours: [], floor: [] };
  for (let round = 0; round < 6; round++) for (const [k, tgt] of Object.entries({ ours, floor })) {
    const r = await load(tgt.runtime.url, { method, path, headers: { authorization } }, { connections, requests: R });
    if (round) out[k].push(r);
  }
  const med = (k, f) => out[k].map((x) => x[f]).sort((a, b) => a - b)[2].toFixed(f === "perSecond" ? 0 : 2);
  console.log(connections, n, "ours", med("ours", "perSecond"), med("ours", "p50"), med("ours", "p99"), "floor", med("floor", "perSecond"), med("floor", "p50"), med("floor", "p99"), "ratio", (med("ours", "perSecond") / med("floor", "perSecond")).toFixed(2));
}
await Promise.all([ours.dispose(), floor.dispose(), bare.dispose()]);
