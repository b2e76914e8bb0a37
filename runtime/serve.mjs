// `make serve`: the registry on this machine, restarted whenever a file in src/ changes.
// Settings come from the environment: PORT, HOST, DATA, STATS, STATS_PORT.
//
// Imports what every Node has; the rest follows once `whatIsMissing` has nothing to say.
import { existsSync, watch } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");

const NODE_MAJOR = 22; // `engines` of miniflare and wrangler

// An editor that saves writes several files, or one of them several times.
const DEBOUNCE_MS = 200;

// When the configuration names nobody. The only credentials that are ever printed.
const DEV_USER = { USERNAME: "hello", PASSWORD: "world" };

// What a test run may set without writing .dev.vars. Not USERNAME: desktops set that themselves.
const VARS_FROM_ENVIRONMENT = [
  "ACCOUNTS_JSON",
  "ANONYMOUS_PULL",
  "BEARER_TOKENS",
  "JWT_REGISTRY_TOKENS_PUBLIC_KEY",
  "OIDC_ISSUERS_JSON",
  "PROMETHEUS",
  "READONLY_PASSWORD",
  "READONLY_USERNAME",
  "REGISTRIES_JSON",
  "SPARSE_MANIFESTS",
  "UPSTREAM_PASSWORD",
];

const problem = whatIsMissing();
if (problem) stop(problem);
await serve(settings(process.env));

function whatIsMissing() {
  const [major] = process.versions.node.split(".");
  if (Number(major) < NODE_MAJOR) return `Node ${NODE_MAJOR} or newer is needed, this is ${process.versions.node}: \`make install\` brings one.`;
  if (!existsSync(join(ROOT, "node_modules/miniflare"))) return "The npm packages are missing: run `make install`.";
  if (!existsSync(join(ROOT, "python_modules/workers"))) return "python_modules is missing: run `make install`.";
  return undefined;
}

function settings(env) {
  const port = Number(env.PORT || 8787);
  return {
    port,
    host: env.HOST || "localhost",
    dataDir: resolve(ROOT, env.DATA || ".data"),
    stats: env.STATS === "1",
    statsPort: Number(env.STATS_PORT || port + 1),
    vars: Object.fromEntries(VARS_FROM_ENVIRONMENT.filter((name) => env[name]).map((name) => [name, env[name]])),
  };
}

async function serve({ port, host, dataDir, stats, statsPort, vars }) {
  const { readProjectConfig } = await import("./config.mjs");
  const { startFront } = await import("./front.mjs");
  const { startRuntime } = await import("./local.mjs");

  // `exit` runs Miniflare's own hook, which ends workerd. Before Miniflare's handlers, which report failure.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(0));

  const config = await readProjectConfig(ROOT).catch((error) => stop(error.message));
  const { USERNAME, PASSWORD } = "USERNAME" in config.vars || "PASSWORD" in config.vars ? config.vars : DEV_USER;
  const ownUser = USERNAME !== DEV_USER.USERNAME || PASSWORD !== DEV_USER.PASSWORD;
  const start = () =>
    startRuntime({ root: ROOT, dataDir, stats, statsPort, vars: ownUser ? vars : { ...DEV_USER, ...vars } });

  let runtime = Promise.reject(new Error("not started yet"));
  runtime.catch(() => {});
  await startFront({ host, port, target: async () => (await runtime).url }).catch((error) => {
    stop(error.code === "EADDRINUSE" ? taken(port, "PORT") : error.message);
  });

  const restart = async () => {
    const previous = runtime;
    // One after the other: two runtimes may not have the bucket open at once.
    runtime = previous.then((old) => old.dispose(), () => {}).then(start);
    try {
      await runtime;
      announce({ port, host, dataDir, ownUser, statsPort: stats ? statsPort : undefined });
    } catch (error) {
      if (error.cause?.code === "ERR_ADDRESS_IN_USE") stop(taken(statsPort, "STATS_PORT"));
      console.error(`${error.message}\nNot serving: waiting for a change in src/.`);
    }
  };
  onChange(join(ROOT, "src"), restart);
  await restart();
}

// Calls `react` once a change below `folder` has settled, one call at a time.
function onChange(folder, react) {
  let timer;
  let last = Promise.resolve();
  let waiting = false;
  const next = () => {
    if (waiting) return;
    waiting = true;
    last = last.then(() => {
      waiting = false;
      console.log("src/ changed: restarting.");
      return react();
    });
  };
  watch(folder, { recursive: true }, (_event, name) => {
    // Python tools on this machine write there without changing anything.
    if (name?.includes("__pycache__")) return;
    clearTimeout(timer);
    timer = setTimeout(next, DEBOUNCE_MS);
  });
}

function announce({ port, host, dataDir, ownUser, statsPort }) {
  const registry = `${host}:${port}`;
  const user = ownUser ? "" : ` -u ${DEV_USER.USERNAME} -p ${DEV_USER.PASSWORD}`;
  console.log(`
Registry   http://${registry}
User       ${ownUser ? "as configured" : `${DEV_USER.USERNAME}, password ${DEV_USER.PASSWORD}`}
Bucket     ${dataDir}${statsPort ? `\nStats      http://127.0.0.1:${statsPort}/stats` : ""}

  docker login ${registry}${user}
  docker push ${registry}/team/app:1
  docker pull ${registry}/team/app:1
`);
}

function taken(port, variable) {
  return `Port ${port} is taken. Stop what listens there, or choose another one: ${variable}=${port + 1000} make serve`;
}

function stop(message) {
  console.error(message);
  process.exit(1);
}
