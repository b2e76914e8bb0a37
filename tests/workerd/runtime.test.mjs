// The local runtime (runtime/): the code around Cloudflare's own glue.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import readline from "node:readline";
import { after, before, describe, test } from "node:test";
import { setTimeout } from "node:timers/promises";

import { Client, CREDENTIALS, digestOf } from "../../bench/support/client.mjs";
import { toStderr } from "../../bench/support/targets.mjs";
import { StartError, startLocal } from "../../runtime/local.mjs";
import { HELLO, Lines, makeProject } from "./project.mjs";

const ROOT = new URL("../..", import.meta.url).pathname;
const PROBE = readFileSync(new URL("probe.py", import.meta.url), "utf8");

// The first bytes of a TLS 1.2/1.3 ClientHello: record header, handshake header, version.
const CLIENT_HELLO = Buffer.from("1603010200010001fc0303", "hex");

// Of one suite. What a test waits for is an event, which may never come.
const TIMEOUT_MS = 600_000; // for what hangs: a loaded machine is slow

describe("a worker in the local runtime", { timeout: TIMEOUT_MS }, () => {
  const lines = new Lines();
  const cleanUp = [];
  let local;

  before(async () => {
    const root = makeProject({ after: (remove) => cleanUp.push(remove) }, {
      ".dev.vars": "SECRET=from .dev.vars\n",
      "src/entry.py": PROBE,
    });
    local = await startLocal({ root, stats: true, host: "localhost", onLog: ({ message }) => lines.add(message) });
  });
  after(async () => {
    await local?.dispose();
    for (const remove of cleanUp) remove();
  });

  const get = (path, options) => fetch(new URL(path, local.url), options);

  test("gets its own bindings, the vars of wrangler.toml's environment dev and those of .dev.vars", async () => {
    const { greeting, secret, bindings, raw } = await (await get("/report")).json();
    assert.deepEqual(bindings.sort(), ["GREETING", "REGISTRY", "SECRET"]);
    assert.deepEqual([greeting, secret, raw], ["from env.dev", "from .dev.vars", "R2Bucket"]);
  });

  test("has its scheduled method called by hand", async () => {
    assert.equal((await get("/cdn-cgi/local/scheduled?cron=*+*+*+*+*")).status, 200);
    await lines.next(/scheduled: '\* \* \* \* \*' None None/);
  });

  test("notices a client that resets in mid-upload, and can clean up", async () => {
    const client = net.connect(local.url.port, local.url.hostname);
    client.write("PUT /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + "x".repeat(1000));
    await lines.next(/upload: begins/);
    client.resetAndDestroy();
    await lines.next(/upload: failed with .*(Network connection lost|client disconnected)/);
    await lines.next(/upload: over, kept False/);
  });

  test("survives 32 clients at once with uploads in flight, some of which reset", async () => {
    const body = Buffer.alloc(1 << 20);
    const uploads = Array.from({ length: 32 }, async (_, index) => {
      if (index % 4) return (await get("/upload", { method: "PUT", body })).status;
      const client = net.connect(local.url.port, local.url.hostname);
      client.write(`PUT /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n`);
      await lines.next(/upload: begins/);
      client.resetAndDestroy();
      return 200;
    });
    assert.deepEqual(new Set(await Promise.all(uploads)), new Set([200]));
    assert.equal((await get("/report")).status, 200);
  });

  test("answers a TLS ClientHello at once, on both loopback addresses", async () => {
    for (const address of ["127.0.0.1", "::1"]) {
      const client = net.connect(local.url.port, address);
      client.write(CLIENT_HELLO);
      const answer = Buffer.concat(await client.toArray()).toString();
      assert.match(answer, /^HTTP\/1\.1 400 /);
    }
  });

  describe("with stats", () => {
    const stats = async () => (await fetch(new URL("/stats", local.statsUrl))).json();
    const reset = () => fetch(new URL("/reset", local.statsUrl), { method: "POST" });

    test("has each R2 call counted for the request it belongs to, with 16 clients at once", async () => {
      const CLIENTS = 16;
      const ROUNDS = 5;
      const endpoints = {
        "/v2/": ["GET /v2/", 3],
        "/v2/a/blobs/b/manifests/latest": ["GET /v2/<name>/manifests/<reference>", 4],
        "/v2/a/blobs/uploads/some-id": ["GET /v2/<name>/blobs/uploads/<id>", 5],
        "/v2/a/tags/list": ["GET /v2/<name>/tags/list", 6],
      };
      const paths = Object.keys(endpoints);
      await reset();
      const client = async (index) => {
        for (let round = 0; round < ROUNDS; round += 1) {
          const path = paths[(index + round) % paths.length];
          await (await get(`${path}?n=${endpoints[path][1]}`)).text();
          await lines.next(/calls: after/);
        }
      };
      await Promise.all(Array.from({ length: CLIENTS }, (_, index) => client(index)));

      const requests = (CLIENTS * ROUNDS) / paths.length;
      const expected = Object.values(endpoints).map(([endpoint, n]) => [
        endpoint,
        { n: requests, A: requests, B: requests * 2 * n, free: 0, written: requests * n, read: 0 },
      ]);
      assert.deepEqual(await stats(), Object.fromEntries(expected));
    });

    test("has bytes counted, and calls that fail", async () => {
      await reset();
      const { status } = await get("/v2/moved/blobs/uploads/", { method: "POST", body: Buffer.alloc(1000) });
      assert.equal(status, 200);
      assert.deepEqual(await stats(), {
        "POST /v2/<name>/blobs/uploads/": { n: 1, A: 6, B: 1, free: 1, written: 1000 + 300 + "never".length, read: 300 },
      });
    });

    test("has calls outside any request counted as other", async () => {
      await reset();
      assert.equal((await get("/cdn-cgi/local/scheduled")).status, 200);
      assert.deepEqual(await stats(), { other: { n: 0, A: 1, B: 0, free: 0, written: 0, read: 0 } });
    });
  });
});

const RAW_ENV = 'from workers import import_from_javascript\nenv = import_from_javascript("cloudflare:workers").env';

describe("a start", { timeout: TIMEOUT_MS }, () => {
  const startWith = (context, source) => startLocal({ root: makeProject(context, { "src/entry.py": source + HELLO }) });

  for (const [what, source, complaint] of [
    ["when a module keeps a JavaScript object", "import js\nBUFFER = js.Uint8Array.new(4)", /Can't serialize top-level variable/],
    ["when a class keeps a JavaScript object", "from pyodide.ffi import to_js\nclass C:\n    LIST = to_js([1])", /Can't serialize top-level variable/],
    ["when a module keeps a proxy", "from pyodide.ffi import create_proxy\nPROXY = create_proxy(print)", /Can't serialize top-level variable/],
    ["with the traceback of an import that fails", "raise LookupError('on purpose')", /entry\.py", line 1[^]*LookupError: on purpose/],
  ]) {
    test(`fails ${what}`, async (context) => {
      await assert.rejects(startWith(context, source), (error) => error instanceof StartError && complaint.test(error.message));
    });
  }

  test("does not for plain imports from js", async (context) => {
    const source = `import js\nfrom js import Object, Uint8Array, crypto\nFROM = Object.fromEntries\n${RAW_ENV}\nBUCKET = env.REGISTRY\n`;
    await (await startWith(context, source)).dispose();
  });

  test("takes a snapshot; the next one restores it, and the registry takes and gives what is pushed", async (context) => {
    const root = makeProject(context, {});
    cpSync(join(ROOT, "src"), join(root, "src"), { recursive: true });
    const project = await import(join(root, "runtime/local.mjs"));
    const snapshots = join(root, "build/python/snapshots");
    for (const round of [1, 2]) {
      const registry = await project.startLocal({ vars: CREDENTIALS, onLog: toStderr });
      try {
        const client = new Client(registry.url);
        const layer = Buffer.from(`layer ${round}`);
        await client.pushChunked("team/app", [layer], digestOf(layer));
        let pulled = "";
        await client.send("GET", `/v2/team/app/blobs/${digestOf(layer)}`, { onData: (data) => (pulled += data) });
        assert.equal(pulled, layer.toString());
      } finally {
        await registry.dispose();
      }
      assert.equal(readdirSync(snapshots).length, 1);
    }
    writeFileSync(join(snapshots, readdirSync(snapshots)[0], "snapshot.bin"), Buffer.alloc(64));
    await assert.rejects(project.startLocal({ vars: CREDENTIALS, onLog: toStderr }), /magic/);
  });

  test("says which text of Pyodide is not what was expected", async (context) => {
    const root = makeProject(context, {});
    const program = join(root, "runtime/bundle.mjs");
    writeFileSync(program, readFileSync(program, "utf8").replace('["Date.now", 22', '["Date.now", 23'));
    const { makeBundle } = await import(program);
    assert.throws(makeBundle, /Pyodide 314\.0\.6 has "Date\.now" 22 times in pyodide\.asm\.mjs, not 23 times: bring CHANGES/);
  });
});

describe("make serve", { timeout: TIMEOUT_MS }, () => {
  // Runs the serve.mjs of a project of its own.
  function serve(context, root, env) {
    const child = spawn(process.execPath, ["runtime/serve.mjs"], { cwd: root, env: { ...process.env, ...env } });
    const lines = new Lines();
    for (const stream of [child.stdout, child.stderr]) readline.createInterface({ input: stream }).on("line", (line) => lines.add(line));
    const exit = once(child, "exit");
    context.after(() => {
      child.kill();
      return exit;
    });
    return { lines, child, exit };
  }

  const childrenOf = (pid) => readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");

  // A process that ended but was not waited for has no command line any more.
  const runs = (pid) => existsSync(`/proc/${pid}/cmdline`) && readFileSync(`/proc/${pid}/cmdline`).length > 0;

  async function freePort() {
    const server = net.createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address();
    server.close();
    await once(server, "close");
    return port;
  }

  test("says how to log in, push and pull, restarts on a change, survives a broken file, and stops cleanly", async (context) => {
    const root = makeProject(context, { "src/entry.py": HELLO });
    const port = await freePort();
    const { lines, child, exit } = serve(context, root, { PORT: port });
    await lines.next(new RegExp(`http://localhost:${port}`));
    await lines.next(/hello, password world/);
    for (const command of ["login", "push", "pull"]) await lines.next(new RegExp(`docker ${command} localhost:${port}`));
    const text = async () => (await fetch(`http://localhost:${port}/`)).text();
    assert.equal(await text(), "hello");

    writeFileSync(join(root, "src/entry.py"), HELLO.replace('"hello"', '"changed"'));
    await lines.next(/restarting/);
    await lines.next(/http:\/\/localhost/);
    assert.equal(await text(), "changed");

    writeFileSync(join(root, "src/entry.py"), "import nowhere");
    await lines.next(/No module named 'nowhere'/);
    await lines.next(/waiting for a change/);
    assert.equal((await fetch(`http://localhost:${port}/`)).status, 503);

    writeFileSync(join(root, "src/entry.py"), HELLO);
    await lines.next(/http:\/\/localhost/);
    assert.equal(await text(), "hello");

    const [workerd, ...others] = childrenOf(child.pid);
    assert.deepEqual(others, []);
    assert.ok(runs(workerd));
    child.kill("SIGTERM");
    assert.deepEqual(await exit, [0, null]);
    // It was told to end before its parent did, but may take a moment longer.
    while (runs(workerd)) await setTimeout(1);
  });

  test("prints no credentials but the ones everybody knows", async (context) => {
    const root = makeProject(context, { "src/entry.py": HELLO, ".dev.vars": "USERNAME=alice\nPASSWORD=confidential\n" });
    const port = await freePort();
    const { lines, child, exit } = serve(context, root, { PORT: port });
    await lines.next(new RegExp(`docker login localhost:${port}$`));
    await lines.next(/docker pull/);
    child.kill();
    await exit;
    assert.doesNotMatch(lines.rest().join("\n"), /alice|confidential|world/);
  });

  test("keeps the bucket between runs", async (context) => {
    const source = HELLO.replace('return Response("hello")', 'before = await self.env.REGISTRY.head("key")\n        await self.env.REGISTRY.put("key", "x")\n        return Response(str(bool(before)))');
    const root = makeProject(context, { "src/entry.py": source });
    const port = await freePort();
    for (const expected of ["False", "True"]) {
      const { lines, child, exit } = serve(context, root, { PORT: port, DATA: "bucket" });
      await lines.next(/http:\/\/localhost/);
      assert.equal(await (await fetch(`http://localhost:${port}/`)).text(), expected);
      child.kill("SIGINT");
      assert.deepEqual(await exit, [0, null]);
    }
  });

  test("names the port that is taken", async (context) => {
    const taken = net.createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    const { port } = taken.address();
    const { lines, exit } = serve(context, makeProject(context, { "src/entry.py": HELLO }), { PORT: port });
    await lines.next(new RegExp(`Port ${port} is taken`));
    assert.deepEqual(await exit, [1, null]);
    taken.close();
  });

  test("names the stats port that is taken", async (context) => {
    const taken = net.createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    const { port } = taken.address();
    const { lines, exit } = serve(context, makeProject(context, { "src/entry.py": HELLO }), { PORT: await freePort(), STATS: "1", STATS_PORT: port });
    await lines.next(new RegExp(`Port ${port} is taken`));
    assert.deepEqual(await exit, [1, null]);
    taken.close();
  });

  test("falls back on wrangler.toml.example and says so", async (context) => {
    const root = makeProject(context, { "src/entry.py": HELLO });
    renameSync(join(root, "wrangler.toml"), join(root, "wrangler.toml.example"));
    const { lines } = serve(context, root, { PORT: await freePort() });
    await lines.next(/using wrangler\.toml\.example/);
    await lines.next(/http:\/\/localhost/);
  });
});
