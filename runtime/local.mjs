// Starts the project's worker in workerd on this machine. Used by serve.mjs, the tests and the benchmarks.
import { readdirSync, readFileSync } from "node:fs";
import { join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { Log, LogLevel, Miniflare, supportedCompatibilityDate } from "miniflare";

import { readProjectConfig } from "./config.mjs";
import { startFront } from "./front.mjs";

const PROJECT = resolve(fileURLToPath(import.meta.url), "../..");
const WORKER = join(PROJECT, "runtime/worker");
const PYODIDE = fileURLToPath(new URL(".", import.meta.resolve("pyodide/pyodide.mjs")));

const LOOPBACK = "127.0.0.1";

// workerd 2026-07-30 can stop answering: its one thread sweeps without end (cppgc's IncrementalSweepTask), while V8's
// helper waits for it to collect (CollectionBarrier). Seen in 5 of 13 chunked pushes of 64 MiB right after a start, in none
// of 14 with this flag (docs/adr/0016).
process.env.MINIFLARE_WORKERD_V8_FLAGS ??= "--single-threaded-gc";

// The compatibility flags that Python code can see (workers-runtime-sdk asks for them), with the
// date from which workerd sets them (its compatibility-date.capnp).
const PYTHON_FLAGS = {
  python_request_headers_preserve_commas: "2026-02-17",
  python_workflows_implicit_dependencies: "2026-02-25",
};

// root: the project: wrangler.toml, .dev.vars, python_modules/ and the sources are looked for there.
// entry: the module with `class Default`.
// sources: folders whose content becomes the import root; the first is the project's own.
// vars: settings that override those of the config.
// dataDir: the folder that keeps the bucket; without it the bucket is gone at the end.
// port: 0 takes a free one. host: "localhost" listens on both loopback addresses.
// stats: count R2 calls per endpoint, served on statsPort.
// inspectorPort: workerd's inspector (V8's protocol) listens there; 0 takes a free one.
// tls: {keyPath, certPath}, PEM files: the runtime's own port speaks HTTPS.
// onLog: called with {level, message} for all that the worker prints; the default is this terminal.
export async function startLocal({
  root = PROJECT,
  entry = "entry",
  sources = ["src"],
  vars = {},
  dataDir,
  port = 0,
  host = LOOPBACK,
  stats = false,
  statsPort = 0,
  inspectorPort,
  onLog = printLog,
} = {}) {
  const runtime = await startRuntime({ root, entry, sources, vars, dataDir, stats, statsPort, inspectorPort, onLog });
  try {
    const front = await startFront({ host, port, target: async () => runtime.url });
    return {
      ...runtime,
      url: front.url,
      async dispose() {
        await front.close();
        await runtime.dispose();
      },
    };
  } catch (error) {
    await runtime.dispose();
    throw error;
  }
}

// The same without the listener that takes TLS probes: serve.mjs keeps its listener while this restarts.
export async function startRuntime({ root = PROJECT, entry = "entry", sources = ["src"], vars = {}, dataDir, stats = false, statsPort = 0, inspectorPort, tls, onLog = printLog }) {
  const config = readProjectConfig(root);
  if (config.notice) onLog({ level: "info", message: config.notice });
  const printed = [];
  let starting = true;
  const miniflare = new Miniflare({
    ...workerOptions({ config, root, entry, sources, vars, stats }),
    host: LOOPBACK,
    port: 0,
    httpsKeyPath: tls?.keyPath,
    httpsCertPath: tls?.certPath,
    r2Persist: dataDir,
    unsafeTriggerHandlers: true,
    inspectorPort,
    unsafeDirectSockets: stats ? [{ host: LOOPBACK, port: statsPort, entrypoint: "Stats" }] : [],
    // Else Miniflare asks Cloudflare for a description of the client's place.
    cf: false,
    log: new Log(LogLevel.ERROR),
    logRequests: false,
    telemetry: { enabled: false },
    structuredWorkerdLogs: true,
    handleStructuredLogs(line) {
      if (starting) printed.push(line.message);
      else onLog(line);
    },
  });
  try {
    const url = await miniflare.ready;
    return {
      url,
      statsUrl: stats ? await miniflare.unsafeGetDirectURL(undefined, "Stats") : undefined,
      bucket: () => miniflare.getR2Bucket("REGISTRY"),
      miniflare,
      dispose: () => miniflare.dispose(),
    };
  } catch (error) {
    // It repeats the error of the start.
    await miniflare.dispose().catch(() => {});
    throw new StartError(printed.join("\n") || error.message, { cause: error });
  } finally {
    starting = false;
  }
}

// The worker did not start: `message` is what it printed, the Python traceback among it.
export class StartError extends Error {
  name = "StartError";
}

function printLog({ level, message }) {
  (level === "error" || level === "warn" ? process.stderr : process.stdout).write(`${message}\n`);
}

function workerOptions({ config, root, entry, sources, vars, stats }) {
  const folders = [...sources.map((source) => [source, ""]), ["python_modules", "python_modules/"]];
  const files = folders.flatMap(([folder, mount]) => filesIn(resolve(root, folder), mount));
  const date = config.compatibilityDate;
  const project = {
    entry,
    stats,
    files: files.map(({ path, bytes }) => [path, bytes.length]),
    compatFlags: Object.fromEntries(Object.entries(PYTHON_FLAGS).map(([flag, since]) => [flag, date >= since])),
  };
  return {
    modulesRoot: "/",
    modules: [
      // The first one is the entry point.
      ...(stats ? ["main_stats.mjs", "stats.mjs"] : []).map((name) => bundled("ESModule", WORKER, name)),
      ...["main.mjs", "globals.mjs", "interpreter.mjs", "snapshot.mjs", "wait_until.mjs"].map((name) => bundled("ESModule", WORKER, name)),
      bundled("Text", WORKER, "glue.py"),
      bundled("ESModule", PYODIDE, "pyodide.mjs"),
      bundled("ESModule", PYODIDE, "pyodide.asm.mjs"),
      bundled("CompiledWasm", PYODIDE, "pyodide.asm.wasm"),
      bundled("Data", PYODIDE, "python_stdlib.zip"),
      bundled("Text", PYODIDE, "pyodide-lock.json"),
      { type: "ESModule", path: "/project.mjs", contents: exportsOf(project) },
      { type: "Data", path: "/files.bin", contents: Buffer.concat(files.map(({ bytes }) => bytes)) },
    ],
    // Miniflare's workerd can be older than the date the project asks for.
    compatibilityDate: date < supportedCompatibilityDate ? date : supportedCompatibilityDate,
    compatibilityFlags: [
      ...config.compatibilityFlags.filter((flag) => !flag.startsWith("python_")),
      ...(stats ? ["nodejs_als"] : []),
    ],
    unsafeEvalBinding: "UNSAFE_EVAL",
    bindings: { ...config.vars, ...vars },
    r2Buckets: config.r2Buckets,
    analyticsEngineDatasets: config.datasets,
  };
}

function bundled(type, folder, name) {
  return { type, path: `/${name}`, contents: readFileSync(join(folder, name), type === "ESModule" || type === "Text" ? "utf8" : undefined) };
}

function exportsOf(values) {
  return Object.entries(values).map(([name, value]) => `export const ${name} = ${JSON.stringify(value)};\n`).join("");
}

function filesIn(folder, mount) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((found) => found.isFile() && !found.name.endsWith(".pyc"))
    .map((found) => {
      const path = join(found.parentPath, found.name);
      return { path: mount + relative(folder, path).split(sep).join("/"), bytes: readFileSync(path) };
    });
}
