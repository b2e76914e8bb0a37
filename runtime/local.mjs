// Starts the project's Worker in workerd on this machine. Used by serve.mjs, the tests and the benchmarks.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync } from "node:fs";
import { join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { Log, LogLevel, Miniflare } from "miniflare";

import { BUILD, BUNDLE_KEY, makeBundle, WORKERD } from "./bundle.mjs";
import { readProjectConfig } from "./config.mjs";
import { startFront } from "./front.mjs";

const RUNTIME = fileURLToPath(new URL(".", import.meta.url));
const PROJECT = resolve(RUNTIME, "..");
const SNAPSHOTS = join(BUILD, "snapshots");
const SNAPSHOTS_KEPT = 12; // the most recently used ones, 38 MB each: as many as `make workerd` needs

const STATS_MODULES = [["stats_entry.py", "python"], ["stats.mjs", "esm"]];
const LOOPBACK = "127.0.0.1";

// workerd 2026-07-30 can stop answering: its one thread sweeps without end (cppgc's IncrementalSweepTask), while V8's
// helper waits for it to collect (CollectionBarrier). Seen in 5 of 13 chunked pushes of 64 MiB right after a start, in none
// of 14 with this flag (docs/adr/0016).
process.env.MINIFLARE_WORKERD_V8_FLAGS ??= "--single-threaded-gc";
process.env.MINIFLARE_WORKERD_PATH = WORKERD;

// root: the project folder, with wrangler.toml, .dev.vars, python_modules/ and the sources.
// entry: the module with `class Default`.
// sources: folders whose content becomes the import root; the first is the project's own source.
// vars: settings that override those of the config.
// dataDir: the folder that keeps the bucket; without it the bucket is deleted at the end.
// port: 0 takes a free one. host: "localhost" listens on both loopback addresses.
// stats: count R2 calls per endpoint, served on statsPort.
// inspectorPort: workerd's inspector (V8's protocol) listens there; 0 takes a free one.
// tls: {keyPath, certPath}, PEM files: the runtime's own port speaks HTTPS.
// onLog: called with {level, message} for the Worker's output; by default it is printed.
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

// Like startLocal, without the listener that answers TLS probes: serve.mjs keeps its listener during a restart.
export async function startRuntime({ root = PROJECT, entry = "entry", sources = ["src"], vars = {}, dataDir, stats = false, statsPort = 0, inspectorPort, tls, onLog = printLog }) {
  makeBundle();
  const config = await readProjectConfig(root);
  if (config.notice) onLog({ level: "info", message: config.notice });
  const worker = workerConfig({ config, root, entry, sources, vars, stats });
  const miniflare = await start(onLog, {
    workers: [{ config: worker, dev: { unsafeDirectSockets: stats ? [{ host: LOOPBACK, port: statsPort, entrypoint: "Stats" }] : [] } }],
    httpsKey: tls && readFileSync(tls.keyPath, "utf8"),
    httpsCert: tls && readFileSync(tls.certPath, "utf8"),
    resourcePersistencePath: dataDir,
    inspectorPort,
    unsafeTriggerHandlers: true,
    unsafeRuntimeEnv: snapshotEnv(await snapshotOf(worker, onLog), "--python-load-snapshot=snapshot.bin"),
  });
  return {
    url: await miniflare.ready,
    statsUrl: stats ? await miniflare.unsafeGetDirectURL(undefined, "Stats") : undefined,
    bucket: () => miniflare.getR2Bucket("REGISTRY"),
    miniflare,
    dispose: () => miniflare.dispose(),
  };
}

async function start(onLog, options) {
  const printed = [];
  let starting = true;
  const miniflare = new Miniflare({
    ...options,
    host: LOOPBACK,
    port: 0,
    // Otherwise Miniflare requests the client's location from Cloudflare.
    cf: false,
    log: new Log(LogLevel.ERROR),
    logRequests: false,
    telemetry: { enabled: false },
    handleStructuredLogs(line) {
      if (starting) printed.push(line.message);
      else onLog(line);
    },
  });
  try {
    await miniflare.ready;
    return miniflare;
  } catch (error) {
    // dispose rejects with the error of the start again.
    await miniflare.dispose().catch(() => {});
    throw new StartError(printed.join("\n") || error.message, { cause: error });
  } finally {
    starting = false;
  }
}

// The Worker did not start: `message` is its output, with the Python traceback.
export class StartError extends Error {
  name = "StartError";
}

function printLog({ level, message }) {
  (level === "error" || level === "warn" ? process.stderr : process.stdout).write(`${message}\n`);
}

// Returns the Worker's configuration for Miniflare.
function workerConfig({ config, root, entry, sources, vars, stats }) {
  const modules = [
    ...projectModules(root, sources),
    ...(stats ? STATS_MODULES.map(([path, type]) => ({ path, type, contents: readFileSync(join(RUNTIME, path)) })) : []),
  ];
  const bindings = (type, member, values) => Object.entries(values).map(([name, value]) => [name, { type, [member]: value }]);
  return {
    name: "registry",
    compatibilityDate: config.compatibilityDate,
    compatibilityFlags: [...config.compatibilityFlags, "python_workers_development", ...(stats ? ["nodejs_als"] : [])],
    manifest: {
      mainModule: stats ? "stats_entry.py" : `${entry}.py`,
      modulesRoot: "/",
      modules: Object.fromEntries(modules.map(({ path, type, contents }) => [path, { type, contents: type === "data" ? new Uint8Array(contents) : contents.toString() }])),
    },
    env: Object.fromEntries([
      ...bindings("text", "value", { ...config.vars, ...vars }),
      ...bindings("r2", "name", config.r2Buckets),
      ...bindings("analytics-engine-dataset", "name", config.datasets),
    ]),
  };
}

// Returns the modules that wrangler would bundle, from several `sources`: [{path, type, contents}].
export function projectModules(root = PROJECT, sources = ["src"]) {
  const own = sources.flatMap((source) => filesIn(resolve(root, source), "")).filter(({ path }) => path.endsWith(".py"));
  return [
    ...own.map((file) => ({ ...file, type: "python" })),
    ...filesIn(join(root, "python_modules"), "python_modules/").map((file) => ({ ...file, type: vendoredType(file.path) })),
  ];
}

// The module type that wrangler uses: only the SDK has JavaScript modules that Python imports.
function vendoredType(path) {
  return /^python_modules\/workers\/.*\.m?js$/.test(path) ? "esm" : "data";
}

function filesIn(folder, mount) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((found) => found.isFile() && !found.name.endsWith(".pyc"))
    .map((found) => {
      const path = join(found.parentPath, found.name);
      return { path: mount + relative(folder, path).split(sep).join("/"), contents: readFileSync(path) };
    });
}

// Returns the folder of the snapshot: the Worker's memory after its import, as Cloudflare takes it at a deploy. Its name is
// the hash of everything that it depends on: modules, settings, Pyodide and workerd. The process that takes the snapshot
// does not serve, because its Python keeps slow proxies for the JavaScript that it imported.
async function snapshotOf(worker, onLog) {
  const { manifest, ...others } = worker;
  const hash = createHash("sha256").update(BUNDLE_KEY).update(JSON.stringify(others));
  for (const [path, { type, contents }] of Object.entries(manifest.modules)) hash.update(JSON.stringify([path, type, contents.length])).update(contents);
  const folder = join(SNAPSHOTS, hash.digest("hex"));
  if (existsSync(folder)) {
    utimesSync(folder, new Date(), new Date());
    return folder;
  }
  mkdirSync(SNAPSHOTS, { recursive: true });
  const taken = mkdtempSync(join(SNAPSHOTS, "new-"));
  try {
    const miniflare = await start(onLog, { workers: [{ config: worker }], unsafeRuntimeEnv: snapshotEnv(taken, "--python-save-snapshot") });
    await miniflare.dispose();
    renameSync(taken, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error; // otherwise another process was faster
  } finally {
    rmSync(taken, { recursive: true, force: true });
  }
  dropOldSnapshots();
  return folder;
}

// The environment variables that the command `workerd` (bundle.mjs) reads.
const snapshotEnv = (folder, option) => ({ PYTHON_SNAPSHOT: folder, PYTHON_SNAPSHOT_OPTION: option });

function dropOldSnapshots() {
  const folders = readdirSync(SNAPSHOTS).map((name) => join(SNAPSHOTS, name));
  const used = folders.map((folder) => ({ folder, at: statSync(folder).mtimeMs })).sort((one, other) => other.at - one.at);
  for (const { folder } of used.slice(SNAPSHOTS_KEPT)) rmSync(folder, { recursive: true, force: true });
}
