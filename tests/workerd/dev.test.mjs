// `make dev`: wrangler dev itself with the bundle of runtime/bundle.mjs, without internet.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync } from "node:fs";
import { join } from "node:path";
import readline from "node:readline";
import { after, test } from "node:test";

import { Client, CREDENTIALS, digestOf } from "../../bench/support/client.mjs";
import { Lines, makeProject } from "./project.mjs";

const ROOT = new URL("../..", import.meta.url).pathname;

test("wrangler dev serves a push and a pull", { timeout: 300_000 }, async () => {
  let child;
  after(() => {
    process.kill(-child.pid);
    return once(child, "exit");
  });
  const root = makeProject({ after }, {
    "wrangler.toml": readFileSync(join(ROOT, "wrangler.toml.example")),
    ".dev.vars": Object.entries(CREDENTIALS).map(([name, value]) => `${name}=${value}\n`).join(""),
    ".venv/.ready": "",
    ".venv/.vendored": "",
  });
  for (const name of ["src", "tools", "Makefile", "package-lock.json", "constraints.txt", "vendored.sha256"]) cpSync(join(ROOT, name), join(root, name), { recursive: true });
  const installed = ["node_modules/.ready", ".venv/.ready", ".venv/.vendored"].flatMap((path) => ["-o", path]);
  child = spawn("make", [...installed, "dev", "PORT=0"], { cwd: root, env: { ...process.env, CI: "true" }, detached: true });
  const lines = new Lines();
  for (const stream of [child.stdout, child.stderr]) readline.createInterface({ input: stream }).on("line", (line) => lines.add(line));
  const [url] = /http:\/\/\S+/.exec(await lines.next(/Ready on/));

  const client = new Client(url);
  const layer = Buffer.from("a layer");
  await client.pushChunked("team/app", [layer], digestOf(layer));
  let pulled = "";
  await client.send("GET", `/v2/team/app/blobs/${digestOf(layer)}`, { onData: (data) => (pulled += data) });
  assert.equal(pulled, "a layer");
});
