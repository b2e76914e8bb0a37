// Throw-away projects with tiny Python workers, to try the local runtime on.
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const REPOSITORY = resolve(dirname(fileURLToPath(import.meta.url)), "../..");

const WRANGLER_TOML = `
name = "probe"
main = "src/entry.py"
compatibility_date = "2026-09-08"
compatibility_flags = ["python_workers"]
vars = { GREETING = "from wrangler.toml" }

[env.dev]
vars = { GREETING = "from env.dev" }
[[env.dev.r2_buckets]]
binding = "REGISTRY"
bucket_name = "probe"
`;

export const HELLO = `
from workers import Response, WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response("hello")
`;

// files: content by path. Beside them the project gets a wrangler.toml, python_modules/ and a copy of runtime/.
export function makeProject(context, files) {
  const root = mkdtempSync(join(tmpdir(), "runtime-test-"));
  context.after(() => rmSync(root, { recursive: true }));
  cpSync(join(REPOSITORY, "python_modules"), join(root, "python_modules"), { recursive: true });
  cpSync(join(REPOSITORY, "runtime"), join(root, "runtime"), { recursive: true });
  symlinkSync(join(REPOSITORY, "node_modules"), join(root, "node_modules"));
  for (const [path, content] of Object.entries({ "wrangler.toml": WRANGLER_TOML, ...files })) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
  return root;
}

// Collects lines; `next(pattern)` resolves with the first one from now on, or seen and not yet taken, that matches.
export class Lines {
  #seen = [];
  #waiting = [];

  add(line) {
    const index = this.#waiting.findIndex(({ pattern }) => pattern.test(line));
    if (index === -1) this.#seen.push(line);
    else this.#waiting.splice(index, 1)[0].resolve(line);
  }

  rest() {
    return this.#seen;
  }

  next(pattern) {
    const index = this.#seen.findIndex((line) => pattern.test(line));
    if (index !== -1) return Promise.resolve(this.#seen.splice(index, 1)[0]);
    const { promise, resolve } = Promise.withResolvers();
    this.#waiting.push({ pattern, resolve });
    return promise;
  }
}
