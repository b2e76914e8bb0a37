// `make serve`: the registry on this machine, restarted whenever a file in src/ changes.
// Settings come from the environment: PORT, HOST, DATA, STATS, STATS_PORT.
//
// It only imports Node's own modules until `whatIsMissing` has found that all packages are installed.
import { existsSync, watch } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");

const NODE_MAJOR = 22; // `engines` of miniflare and wrangler

// An editor may write several files, or one file several times, for one save.
const DEBOUNCE_MS = 200;

// The account if none is configured. No other credentials are ever printed.
const DEV_USER = { USERNAME: "hello", PASSWORD: "world" };

// Settings that the environment may have instead of .dev.vars. Not USERNAME: desktop environments set it themselves.
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
    // Two runtimes must not have the bucket open at the same time.
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

// Calls `react` after changes below `folder`, when none has followed for DEBOUNCE_MS; one call at a time.
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
    // Python tools on this machine write compiled files there.
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
  return `Port ${port} is taken. Stop the program that uses it, or choose another port: ${variable}=${port + 1000} make serve`;
}

function stop(message) {
  console.error(message);
  process.exit(1);
}
