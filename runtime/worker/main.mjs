// The worker that Miniflare runs: Pyodide with the project's Python files in it. What Cloudflare's
// glue (workerd's src/pyodide) does around the user's code is done here, as far as that code can notice.
import * as cloudflareSockets from "cloudflare:sockets";
import * as cloudflareWorkers from "cloudflare:workers";
import { WorkerEntrypoint } from "cloudflare:workers";

import glueSource from "./glue.py";
import contents from "./files.bin";
import { compatFlags, entry, files, stats as statsWanted } from "./project.mjs";
import { bootPython, mountFiles, withFillerEntropy, withStoppedClock } from "./interpreter.mjs";
import { liveJsObjects, unserializable } from "./snapshot.mjs";
import { patchWaitUntil } from "./wait_until.mjs";

// Only with STATS=1: otherwise no binding is wrapped and AsyncLocalStorage is not even imported.
const stats = statsWanted ? await import("./stats.mjs") : undefined;

const workersModule = stats ? { ...cloudflareWorkers, env: stats.countedEnv(cloudflareWorkers.env) } : cloudflareWorkers;

const glue = await withStoppedClock(start);

export default class extends WorkerEntrypoint {
  async fetch(request) {
    return stats ? stats.attributed(request, () => reply(this, request)) : reply(this, request);
  }

  async scheduled(...args) {
    await callPython(this, "scheduled", false, ...args);
  }
}

async function reply(event, request) {
  try {
    const response = await callPython(event, "fetch", true, request);
    if (response instanceof Response) return response;
    console.error(`fetch must return a Response, not ${glue.describe(response)}`);
  } catch (error) {
    console.error(error.message);
  }
  return new Response("Internal Server Error", { status: 500 });
}

// relaxed: without the arguments that the method does not take, as Cloudflare calls fetch.
async function callPython({ ctx, env }, method, relaxed, ...args) {
  beforeFirstEvent();
  return glue.handle.callWithOptions({ promising: true }, ctx, stats ? stats.countedEnv(env) : env, method, relaxed, ...args);
}

async function start() {
  const pyodide = await bootPython();
  mountFiles(pyodide.FS, files, contents);
  const helper = {
    doAnImport: (name) => import(name),
    cloudflareWorkersModule: workersModule,
    cloudflareSocketsModule: cloudflareSockets,
    workerEntrypoint: WorkerEntrypoint,
    patchWaitUntil,
  };
  pyodide.registerJsModule("_pyodide_entrypoint_helper", helper);
  pyodide.registerJsModule("_cloudflare_compat_flags", compatFlags);
  const glue = await loadGlue(pyodide);
  glue.prepare();
  const before = liveJsObjects(pyodide._module);
  await glue.import_entry.callWithOptions({ promising: true }, entry);
  const offender = unserializable(pyodide._module, before, [globalThis, workersModule, cloudflareSockets, helper, compatFlags]);
  if (offender) {
    const name = glue.find_variable((value) => value === offender) ?? "(no variable of an imported module or class)";
    throw new Error(`Can't serialize top-level variable ${name}: the import made a JavaScript ${offender.constructor?.name}`);
  }
  return glue;
}

async function loadGlue(pyodide) {
  const namespace = pyodide.toPy({ __name__: "_local_glue" });
  await withFillerEntropy(() => pyodide.runPython(glueSource, { globals: namespace, filename: "glue.py" }));
  const functions = ["prepare", "import_entry", "find_variable", "before_first_event", "handle", "describe"];
  return Object.fromEntries(functions.map((name) => [name, namespace.get(name)]));
}

// Entropy exists from the first event on, not before.
let opened = false;
function beforeFirstEvent() {
  if (opened) return;
  opened = true;
  glue.before_first_event();
}
