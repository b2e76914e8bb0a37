// Builds the bundle of Pyodide that workerd otherwise downloads, from the npm package of the same release.
// `node runtime/bundle.mjs` (make install) writes it to build/python, with a command `workerd` that uses it.
//
// workerd contains Cloudflare's glue around Pyodide. It verifies the checksum of every bundle except the one for its own
// developers: pyodide_dev.capnp.bin, used with the compatibility flag python_workers_development.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import workerdPackage from "workerd";

const HERE = fileURLToPath(import.meta.url);
const workerd = workerdPackage.default;

// The output folder, and the command that starts workerd with the bundle.
export const BUILD = resolve(HERE, "../../build/python");
export const WORKERD = join(BUILD, "workerd");

const PYODIDE = dirname(fileURLToPath(import.meta.resolve("pyodide/pyodide.mjs")));
const VERSION = JSON.parse(readFileSync(join(PYODIDE, "package.json"), "utf8")).version;

// A hash of everything the bundle depends on: Pyodide, workerd and this program.
export const BUNDLE_KEY = createHash("sha256").update([VERSION, workerdPackage.version, workerd, readFileSync(HERE)].join("\n")).digest("hex");

// The replacements of Cloudflare's build in Pyodide's JavaScript (workerd's src/pyodide/helpers.bzl) that apply to this
// release: [text, number of occurrences, replacement]. Code may only be compiled by workerd's own functions, and the clock
// does not advance while Python starts. The last three place the libraries of Python packages.
const CHANGES = [
  ["new WebAssembly.Module(", 4, "newWasmModule("],
  ["WebAssembly.instantiate(", 2, "wasmInstantiate("],
  ["Date.now", 22, "monotonicDateNow"],
  ["crypto.getRandomValues(", 1, "getRandomValues(Module,"],
  ["function loadLibData(){", 1, "function loadLibData(){const found=patchedLoadLibData(Module,libName,flags.rpath);return flags.loadAsync?Promise.resolve(found):found}function unusedLoadLibData(){"],
  ["(getMemory(", 1, "(Module.getMemoryPatched(Module,libName,"],
  ["export default _createPyodideModule;", 1, "export { _createPyodideModule };"],
];
const IMPORTS =
  "import { addEventListener, getRandomValues, location, monotonicDateNow, newWasmModule, patchedLoadLibData, wasmInstantiate } " +
  'from "pyodide-internal:builtin_wrappers";\n';

// workerd's src/workerd/jsg/modules.capnp: the tags of a module's union, and its type `internal`.
const SOURCE = 0;
const WASM = 1;
const DATA = 2;
const INTERNAL = 2;

// Writes bundle and command to build/python, unless they are current.
export function makeBundle() {
  const keyPath = join(BUILD, "bundle.sha256");
  if (existsSync(keyPath) && readFileSync(keyPath, "utf8") === BUNDLE_KEY) return;
  const read = (name) => readFileSync(join(PYODIDE, name));
  write("pyodide_dev.capnp.bin", message([
    ["pyodide.asm", SOURCE, Buffer.from(changed(read("pyodide.asm.mjs").toString()))],
    ["pyodide.asm.wasm", WASM, read("pyodide.asm.wasm")],
    ["python_stdlib.zip", DATA, read("python_stdlib.zip")],
  ]));
  write("workerd", command(), 0o755);
  write("bundle.sha256", BUNDLE_KEY);
}

// MINIFLARE_WORKERD_PATH names one file, which Miniflare calls with options of its own. local.mjs sets the variables.
function command() {
  const snapshot = '${PYTHON_SNAPSHOT:+--python-snapshot-dir="$PYTHON_SNAPSHOT" "$PYTHON_SNAPSHOT_OPTION"}';
  return `#!/bin/sh
if [ "$1" = serve ]; then
  shift
  set -- serve --pyodide-bundle-disk-cache-dir=${quoted(BUILD)} ${snapshot} "$@"
fi
exec ${quoted(workerd)} "$@"
`;
}

const quoted = (path) => `'${path.replaceAll("'", "'\\''")}'`;

// Writes a file in build/python atomically: another process that starts at the same time sees the whole file or none.
export function write(name, content, mode = 0o644) {
  mkdirSync(BUILD, { recursive: true });
  const path = join(BUILD, name);
  writeFileSync(`${path}.${process.pid}`, content, { mode });
  renameSync(`${path}.${process.pid}`, path);
}

function changed(source) {
  for (const [text, expected, replacement] of CHANGES) {
    const found = source.split(text).length - 1;
    if (found !== expected) {
      throw new Error(`Pyodide ${VERSION} has ${JSON.stringify(text)} ${found} times in pyodide.asm.mjs, not ${expected} times: bring CHANGES in runtime/bundle.mjs up to date with workerd's src/pyodide/helpers.bzl, or install the npm packages that package-lock.json names.`);
    }
    source = source.replaceAll(text, replacement);
  }
  return IMPORTS + source;
}

// A Cap'n Proto message of one segment: a Bundle, whose one field is a list of Modules (modules.capnp). A Module has one
// word of data (type, union's tag) and four pointers (name, the union's content, two more that stay null).
const WORD = 8; // bytes
const MODULE = 5; // words
const FIRST_MODULE = 3; // words: the pointer to the Bundle, its pointer to the list, the list's tag

function message(modules) {
  const head = Buffer.alloc((FIRST_MODULE + modules.length * MODULE) * WORD);
  const pieces = [head];
  let end = head.length / WORD; // words
  const set = (word, value) => head.writeBigUInt64LE(value, word * WORD);
  set(0, structPointer(0, 0, 1));
  set(1, listPointer(0, COMPOSITE, modules.length * MODULE));
  set(2, structPointer(modules.length, 1, 4));
  for (const [index, [name, tag, content]] of modules.entries()) {
    const at = FIRST_MODULE + index * MODULE;
    head.writeUInt16LE(INTERNAL, at * WORD);
    head.writeUInt16LE(tag, at * WORD + 2);
    for (const [pointer, bytes] of [[at + 1, Buffer.from(`pyodideRuntime-internal:${name}\0`)], [at + 2, content]]) {
      set(pointer, listPointer(end - pointer - 1, BYTES, bytes.length));
      const words = Math.ceil(bytes.length / WORD);
      pieces.push(bytes, Buffer.alloc(words * WORD - bytes.length));
      end += words;
    }
  }
  const frame = Buffer.alloc(WORD); // the number of segments less one, and the size of the first
  frame.writeUInt32LE(end, 4);
  return Buffer.concat([frame, ...pieces]);
}

// https://capnproto.org/encoding.html: kinds of lists by the size of what is in them. Offsets are in words.
const BYTES = 2;
const COMPOSITE = 7;

function structPointer(offset, dataWords, pointers) {
  return (BigInt(pointers) << 48n) | (BigInt(dataWords) << 32n) | (BigInt(offset) << 2n);
}

function listPointer(offset, kind, length) {
  return (BigInt(length) << 35n) | (BigInt(kind) << 32n) | (BigInt(offset) << 2n) | 1n;
}

if (process.argv[1] === HERE) makeBundle();
