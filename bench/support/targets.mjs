// Starts the measured servers: the registry, minimal Workers to compare it with, and docker-registry.
import { spawn } from "node:child_process";
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Log, LogLevel, Miniflare } from "miniflare";

import { startRuntime } from "../../runtime/local.mjs";
import { Client, CREDENTIALS } from "./client.mjs";
import { withPid } from "./workerd.mjs";

// Debian's programs; the PATH may have others.
export const DOCKER_REGISTRY = "/usr/bin/docker-registry";
export const SKOPEO = "/usr/bin/skopeo";

const LOOPBACK = "127.0.0.1";
const COMPATIBILITY_DATE = "2026-09-08"; // of the bare Worker: the registry's
const REQUEST_LINE = '{"event": "request",';

// A JavaScript Worker that only passes bodies to and from R2. Four further routes tell costs apart: /parts/ stores in
// parts and /checked/ has R2 check a checksum, as the registry does; /read reads the body, /hash reads and hashes it.
const BARE_WORKER = `
const BUFFER_SIZE = 8 * 1024 * 1024; // bytes

// Yields the body in buffers, all full except the last; each is valid until the next one is requested.
async function* inBuffers(body) {
  const reader = body.getReader({ mode: "byob" });
  for (let buffer = new Uint8Array(BUFFER_SIZE); ; ) {
    const { value, done } = await reader.readAtLeast(BUFFER_SIZE, buffer);
    if (value.byteLength > 0) yield value;
    if (done || value.byteLength < BUFFER_SIZE) return;
    buffer = new Uint8Array(value.buffer);
  }
}

const ROUTES = {
  async checked(key, request, bucket) {
    await bucket.put(key, request.body, { sha256: request.headers.get("x-sha256") });
  },
  async parts(key, request, bucket) {
    const upload = await bucket.createMultipartUpload(key);
    const parts = [];
    for await (const part of inBuffers(request.body)) parts.push(await upload.uploadPart(parts.length + 1, part));
    await upload.complete(parts);
  },
  async read(key, request) {
    for await (const _ of inBuffers(request.body));
  },
  async hash(key, request) {
    const stream = new crypto.DigestStream("SHA-256");
    const writer = stream.getWriter();
    for await (const part of inBuffers(request.body)) await writer.write(part);
    await writer.close();
    await stream.digest;
  },
  async put(key, request, bucket) {
    await bucket.put(key, request.body);
  },
};

export default {
  async fetch(request, env) {
    const key = new URL(request.url).pathname;
    if (key === "/v2/") return new Response("{}");
    if (request.method === "HEAD") {
      const { size } = await env.REGISTRY.head(key);
      return new Response(null, { headers: { "content-length": String(size) } });
    }
    if (request.method === "GET") {
      const object = await env.REGISTRY.get(key);
      return new Response(object.body, { headers: { "content-type": "application/octet-stream", "cache-control": "no-transform" } });
    }
    await (ROUTES[key.split("/")[1]] ?? ROUTES.put)(key, request, env.REGISTRY);
    return new Response();
  },
};
`;

// Starts the registry; returns {client, pid, runtime, dispose()}, like all functions below. The client uses workerd's
// own port. `options` are those of startRuntime.
export function startOurs(options = {}) {
  return startTarget((dataDir) => startWithPid(() => startRuntime({ vars: CREDENTIALS, dataDir, onLog: toStderr, ...options })));
}

// Starts a Python Worker that makes only a request's R2 call.
export function startFloor() {
  return startOurs({ entry: "floor_entry", sources: ["bench/entry"] });
}

// Starts docker-registry with file system storage and without accounts. tls: {keyPath, certPath}.
export function startDockerRegistry({ tls } = {}) {
  return startTarget(async (dataDir) => {
    const port = await freePort();
    const config = {
      version: "0.1",
      log: { level: "error", accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: dataDir } },
      http: { addr: `${LOOPBACK}:${port}`, secret: "bench", ...(tls && { tls: { key: tls.keyPath, certificate: tls.certPath } }) },
    };
    const configPath = join(dataDir, "config.yml");
    writeFileSync(configPath, JSON.stringify(config)); // JSON is YAML
    // The log has a line for every missing blob, so it goes to a file.
    const logPath = join(dataDir, "log");
    const server = spawn(DOCKER_REGISTRY, ["serve", configPath], { stdio: ["ignore", "ignore", openSync(logPath, "w")] });
    const url = `${tls ? "https" : "http"}://${LOOPBACK}:${port}`;
    const runtime = {
      url,
      async dispose() {
        server.kill();
        if (server.exitCode === null) await new Promise((resolve) => server.once("exit", resolve));
      },
    };
    const client = new Client(url);
    while (server.exitCode === null) {
      if (await client.send("GET", "/v2/").catch(() => undefined)) return { runtime, pid: server.pid };
      await sleep(50);
    }
    throw new Error(`${DOCKER_REGISTRY} does not start: ${readFileSync(logPath, "utf8")}`);
  });
}

export function startBare() {
  return startTarget((dataDir) => startWithPid(async () => {
    const miniflare = new Miniflare({
      workers: [
        {
          config: {
            name: "bare",
            compatibilityDate: COMPATIBILITY_DATE,
            manifest: { mainModule: "bare.mjs", modulesRoot: "/", modules: { "bare.mjs": { type: "esm", contents: BARE_WORKER } } },
            env: { REGISTRY: { type: "r2", name: "bare" } },
          },
        },
      ],
      host: LOOPBACK,
      port: 0,
      resourcePersistencePath: dataDir,
      cf: false,
      log: new Log(LogLevel.ERROR),
      logRequests: false,
      telemetry: { enabled: false },
    });
    return { url: await miniflare.ready, miniflare, dispose: () => miniflare.dispose() };
  }));
}

async function startWithPid(start) {
  const [runtime, pid] = await withPid(start);
  return { runtime, pid };
}

// A free port.
function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, LOOPBACK, () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// The `onLog` of startLocal and startRuntime: standard output is for results, and lines of requests are dropped.
export function toStderr({ message }) {
  if (!message.startsWith(REQUEST_LINE)) process.stderr.write(`${message}\n`);
}

async function startTarget(start) {
  const dataDir = mkdtempSync(join(tmpdir(), "registry-bench-"));
  const removeData = () => rmSync(dataDir, { recursive: true, force: true });
  try {
    const { runtime, pid } = await start(dataDir);
    const client = new Client(runtime.url);
    return {
      client,
      pid,
      runtime,
      async dispose() {
        client.close();
        await runtime.dispose();
        removeData();
      },
    };
  } catch (error) {
    removeData();
    throw error;
  }
}
