// Measures the memory of a garbage collection of 1.7 million objects beyond the interpreter's own, in npm's Pyodide, and
// prints it as JSON. WebAssembly's memory never shrinks, so its final size is the peak.
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { loadPyodide } from "pyodide";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");

// Returns {heap, calls, objects} for a number of images; `heap` is in bytes.
export async function measure(images = 100_000) {
  const python = await loadPyodide();
  for (const folder of ["src", "tests"]) {
    python.FS.mkdirTree(`/root/${folder}`);
    python.mountNodeFS(`/root/${folder}`, resolve(ROOT, folder));
  }
  const size = () => python._module.HEAPU8.length;
  python.runPython("import sys; sys.path[:0] = ['/root/src', '/root']; sys.dont_write_bytecode = True");
  await python.runPythonAsync("from tests.heap import main; await main(100)");
  const before = size();
  const counted = JSON.parse(await python.runPythonAsync(`await main(${images})`));
  return { heap: size() - before, ...counted };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(JSON.stringify(await measure()));
