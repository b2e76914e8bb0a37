// `make smoke` against the local runtime: the checks that someone runs after a deploy.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";

import { toStderr } from "../../bench/support/targets.mjs";
import { startLocal } from "../../runtime/local.mjs";

let registry;

before(async () => {
  registry = await startLocal({ vars: { USERNAME: "hello", PASSWORD: "world", BEARER_TOKENS: "true" }, onLog: toStderr });
});

after(() => registry?.dispose());

function smoke(settings) {
  const env = { ...process.env, URL: registry.url.toString(), USERNAME: "hello", PASSWORD: "world", ...settings };
  return new Promise((resolve) => {
    execFile(".venv/bin/python", ["-m", "tests.smoke"], { env }, (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }));
  });
}

test("every check passes, the body limit too, and nothing is left", async () => {
  const { code, stdout, stderr } = await smoke({});
  assert.equal(stderr, "");
  assert.equal(code, 0, stdout);
  assert.equal(stdout.match(/^ok/gm)?.length, 7, stdout);
  const authorization = `Basic ${Buffer.from("hello:world").toString("base64")}`;
  const tags = await fetch(new URL("/v2/smoke/test/tags/list", registry.url), { headers: { authorization } });
  assert.deepEqual((await tags.json()).tags ?? [], []);
  assert.match(stdout, /^ok {6}large chunks: \d+ bytes pass; 101000000 bytes gave \d+$/m);
  // Deletions leave tombstones, which the scheduled cleanup removes; no blob and no upload session is left.
  const { objects } = await (await registry.bucket()).list();
  const left = objects.map(({ key }) => key).filter((key) => key.includes("smoke/test"));
  assert.deepEqual(left.filter((key) => !key.startsWith("smoke/test/manifests/")), []);
});

test("a wrong password is told, and not shown", async () => {
  const { code, stdout } = await smoke({ PASSWORD: "not-the-password" });
  assert.equal(code, 1, stdout);
  assert.match(stdout, /^FAILED {2}logins: .*401/);
  assert.doesNotMatch(stdout, /not-the-password/);
});

test("no registry", async () => {
  const { code, stdout } = await smoke({ URL: "http://127.0.0.1:9" });
  assert.equal(code, 2, stdout);
});
