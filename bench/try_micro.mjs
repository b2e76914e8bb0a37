import { startOurs } from "./support/targets.mjs";
const ours = await startOurs({ entry: "micro_entry", sources: ["src", "/tmp/perf/e"], onLog() {} });
const authorization = `Basic ${Buffer.from("hello:world").toString("base64")}`;
await (await ours.runtime.bucket()).put("blob", "hi", {sha256: undefined});
const get = async (w, n) => { const s = performance.now(); const r = await fetch(new URL(`/micro?w=${w}&n=${n}`, ours.runtime.url), { headers: { authorization } }); const t = await r.text(); if (!r.ok) throw new Error(w + t); return performance.now() - s; };
await get("empty", 10);
for (const w of process.argv.slice(2)) {
  await get(w, 200);
  const N = 2000; const a = [], b = [];
  for (let i = 0; i < 3; i++) { a.push(await get("empty", N)); b.push(await get(w, N)); }
  console.log(w.padEnd(14), ((Math.min(...b) - Math.min(...a)) / N * 1000).toFixed(1), "µs");
}
await ours.dispose();
