// Boots Pyodide in the worker's global scope, as Cloudflare does: no I/O, no timers, no randomness.
// All it needs comes from modules that are bundled with this worker.
import "./globals.mjs";
import stdlib from "./python_stdlib.zip";
import lockFile from "./pyodide-lock.json";
import wasm from "./pyodide.asm.wasm";
import createPyodideModule from "./pyodide.asm.mjs";
import { loadPyodide } from "./pyodide.mjs";

// Cloudflare mounts own files here and vendored packages in python_modules below it.
const OWN_FILES = "/session/metadata";

const READ_ONLY_FILE = 0o444;
const READ_ONLY_FOLDER = 0o555;

// Cloudflare's poison for what seeds itself before there is entropy (its topLevelEntropy/lib.ts uses the same).
const FILLER = 43;

export async function bootPython() {
  return withPatched(globalThis, bootGlobals(), () =>
    withPatched(WebAssembly, { instantiateStreaming: instantiateBundledWasm }, () =>
      withFillerEntropy(() =>
        loadPyodide({
          createPyodideModule,
          indexURL: globalThis.location,
          packageBaseUrl: globalThis.location,
          lockFileContents: lockFile,
          // No hash seed can be drawn at start; Cloudflare's glue fixes it to the same number.
          env: { HOME: "/session", PYTHONHASHSEED: "111" },
          stdout: (line) => console.log(line),
          stderr: (line) => console.error(line),
        }),
      ),
    ),
  );
}

// Import of `random` and its like draws a seed. They get a constant while `run` lasts, and are
// reseeded before the first request (glue.py), when there is entropy.
export async function withFillerEntropy(run) {
  return withPatched(crypto, { getRandomValues: (array) => array.fill(FILLER) }, run);
}

// workerd lets Date.now() run while it starts, Cloudflare does not.
export async function withStoppedClock(run) {
  return withPatched(Date, { now: () => 0 }, run);
}

// `files`: [path below OWN_FILES, size] in the order of their bytes in `contents`.
export function mountFiles(FS, files, contents) {
  const folders = new Set([OWN_FILES, `${OWN_FILES}/python_modules`]);
  FS.mkdirTree(`${OWN_FILES}/python_modules`);
  let offset = 0;
  for (const [path, size] of files) {
    const target = `${OWN_FILES}/${path}`;
    const folder = target.slice(0, target.lastIndexOf("/"));
    FS.mkdirTree(folder);
    folders.add(folder);
    FS.writeFile(target, new Uint8Array(contents, offset, size));
    FS.chmod(target, READ_ONLY_FILE);
    offset += size;
  }
  for (const folder of folders) FS.chmod(folder, READ_ONLY_FOLDER);
}

function bootGlobals() {
  // The only thing loadPyodide fetches that is used is the standard library.
  return { fetch: async () => ({ ok: true, arrayBuffer: async () => stdlib }) };
}

async function instantiateBundledWasm(_response, imports) {
  return { module: wasm, instance: new WebAssembly.Instance(wasm, imports) };
}

async function withPatched(target, patches, run) {
  const originals = Object.fromEntries(Object.keys(patches).map((name) => [name, target[name]]));
  Object.assign(target, patches);
  try {
    return await run();
  } finally {
    Object.assign(target, originals);
  }
}
