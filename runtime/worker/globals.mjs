// Imported before Pyodide's modules: they look these globals up while they are evaluated, or compile
// WebAssembly, which workerd allows only through Miniflare's unsafe-eval binding.
import { env } from "cloudflare:workers";

const { newWasmModule } = env.UNSAFE_EVAL;
const compile = newWasmModule.bind(env.UNSAFE_EVAL);
// Python sees the same bindings as on Cloudflare.
delete env.UNSAFE_EVAL;

// Where Pyodide believes it was loaded from. Nothing is ever fetched from there (interpreter.mjs).
globalThis.location = "file:///pyodide/";

// Without one, Pyodide's C runtime listens for "message" events that workerd never delivers.
globalThis.setImmediate ??= (callback) => setTimeout(callback, 0);

// Pyodide compiles small trampolines from bytes. A Proxy, so that `instanceof` still works.
WebAssembly.Module = new Proxy(WebAssembly.Module, { construct: (_, [bytes]) => compile(bytes) });
WebAssembly.compile = async (bytes) => compile(bytes);
