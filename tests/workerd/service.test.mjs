// The operator's view in real workerd: log, front page, health check, metrics.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";

import { makeProject } from "./project.mjs";
import { startLocal } from "../../runtime/local.mjs";

const ROOT = new URL("../..", import.meta.url).pathname;
const USER = { authorization: `Basic ${Buffer.from("hello:world").toString("base64")}` };
const VARS = { USERNAME: "hello", PASSWORD: "world", PROMETHEUS: "true" };
const ABSENT = `/v2/team/app/blobs/sha256:${"0".repeat(64)}`;

const logged = [];
const local = await startLocal({ root: ROOT, vars: VARS, onLog: ({ message }) => logged.push(message) });
after(() => local.dispose());
const call = (path, options = {}) => fetch(new URL(path, local.url), { ...options, headers: { ...USER, ...options.headers } });
const linesOf = (ids) => logged.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line)).filter(({ request }) => ids.includes(request));

test("requests at once: each has its own line, its own id and its own R2 calls", async () => {
  const paths = Array.from({ length: 60 }, (_, index) => ["/v2/", ABSENT, "/v2/_catalog"][index % 3]);
  const answers = await Promise.all(paths.map((path) => call(path)));
  const ids = answers.map(({ headers }) => headers.get("x-request-id"));
  await Promise.all(answers.map((answer) => answer.text()));
  assert.equal(new Set(ids).size, paths.length);
  const lines = linesOf(ids);
  assert.equal(lines.length, paths.length);
  const expected = { "/v2/": ["CheckVersion", 0, 0, 200], [ABSENT]: ["GetBlob", 0, 1, 404], "/v2/_catalog": ["ListRepositories", 1, 0, 200] };
  for (const line of lines) {
    const { endpoint, class_a, class_b, status, account, event } = line;
    assert.deepEqual([endpoint, class_a, class_b, status], expected[paths[ids.indexOf(line.request)]]);
    assert.deepEqual([event, account], ["request", "hello"]);
  }
});

test("Cloudflare's id of the request is ours, and stands in an error", async () => {
  const answer = await call(ABSENT, { headers: { "cf-ray": "8f2b5c0d1e3a4b6c-FRA" } });
  assert.equal(answer.headers.get("x-request-id"), "8f2b5c0d1e3a4b6c");
  assert.equal((await answer.json()).request, "8f2b5c0d1e3a4b6c");
});

test("bytes in and out are told, of bodies without a length, too", async () => {
  const started = await call("/v2/team/app/blobs/uploads/", { method: "POST" });
  const body = new ReadableStream({
    start(controller) {
      for (let piece = 0; piece < 3; piece += 1) controller.enqueue(new Uint8Array(100_000));
      controller.close();
    },
  });
  const patched = await call(started.headers.get("location"), { method: "PATCH", body, duplex: "half" });
  assert.equal(patched.status, 202);
  const [line] = linesOf([patched.headers.get("x-request-id")]);
  assert.equal(line.received, 300_000);
});

test("the front page and health are for everybody, metrics are not", async () => {
  const page = await fetch(local.url);
  assert.equal(page.headers.get("content-type"), "text/html; charset=utf-8");
  assert.match(await page.text(), new RegExp(`docker login ${local.url.host}\n`));
  const head = await fetch(local.url, { method: "HEAD" });
  assert.equal(head.status, 200);
  const health = await fetch(new URL("/healthz", local.url));
  assert.deepEqual([health.status, await health.json()], [200, { status: "ok" }]);
  assert.equal((await fetch(new URL("/metrics", local.url))).status, 401);
  const metrics = await (await call("/metrics")).text();
  assert.match(metrics, /^registry_requests_total\{isolate="[0-9a-f]{8}",endpoint="GetBlob",status="404"\} 21$/m);
});

describe("Analytics Engine", () => {
  test("a point is a plain object of JavaScript", async (context) => {
    const points = await startLocal({ root: ROOT, entry: "analytics_entry", sources: ["src", `${ROOT}tests/workerd`], vars: VARS, onLog() {} });
    context.after(() => points.dispose());
    await fetch(new URL(ABSENT, points.url), { headers: USER });
    const [point] = await (await fetch(new URL("/points", points.url))).json();
    assert.deepEqual(point.indexes, ["team/app"]);
    assert.deepEqual(point.blobs, ["GetBlob", "404", "team/app", "hello"]);
    assert.equal(point.doubles.length, 6);
    assert.deepEqual(point.doubles.slice(3), [0, 1, 0]);
  });

  test("a binding of wrangler.toml takes points", async (context) => {
    const lines = [];
    const config = `
name = "probe"
main = "src/entry.py"
compatibility_date = "2026-09-08"
compatibility_flags = ["python_workers"]
[env.dev]
r2_buckets = [{ binding = "REGISTRY", bucket_name = "probe" }]
analytics_engine_datasets = [{ binding = "METRICS", dataset = "registry" }]
`;
    const root = makeProject(context, { "wrangler.toml": config });
    const worker = await startLocal({ root, sources: [`${ROOT}src`], vars: VARS, onLog: ({ message }) => lines.push(message) });
    context.after(() => worker.dispose());
    const answer = await fetch(new URL("/v2/", worker.url), { headers: USER });
    assert.equal(answer.status, 200);
    assert.deepEqual(lines.map((line) => JSON.parse(line).event), ["request"]);
  });
});

test("a request that used its CPU time is answered and logged, and the next ones are served", async (context) => {
  const lines = [];
  const limited = await startLocal({ root: ROOT, entry: "cpu_entry", sources: ["src", `${ROOT}tests/workerd`], vars: VARS, onLog: ({ message }) => lines.push(message) });
  context.after(() => limited.dispose());
  const answer = await fetch(new URL(ABSENT, limited.url), { headers: USER });
  assert.equal(answer.status, 503);
  assert.match(await answer.text(), /limits\.cpu_ms/);
  assert.equal((await fetch(new URL("/v2/", limited.url), { headers: USER })).status, 200);
  const [{ event, trace }, asked] = lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  assert.equal(event, "cpu-limit");
  assert.match(trace, /\nCpuLimitExceeded|\.CpuLimitExceeded/);
  assert.deepEqual([asked.endpoint, asked.status], ["GetBlob", 503]);
});
