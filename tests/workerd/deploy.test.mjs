// What `wrangler deploy --env production` would upload, with the example configuration.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const WRANGLER = join(dirname(createRequire(import.meta.url).resolve("wrangler/package.json")), "bin/wrangler.js");

const project = mkdtempSync(join(tmpdir(), "deploy-"));
after(() => rmSync(project, { recursive: true }));

// The files below a folder, without what Python compiles beside them.
function filesOf(folder) {
  return readdirSync(folder, { recursive: true })
    .filter((name) => statSync(join(folder, name)).isFile() && !name.includes("__pycache__"))
    .sort();
}

test("the dry run bundles exactly our modules and the vendored packages", () => {
  for (const name of ["src", "python_modules", "pyproject.toml"]) {
    cpSync(join(ROOT, name), join(project, name), { recursive: true, filter: (path) => !path.includes("__pycache__") });
  }
  cpSync(join(ROOT, "wrangler.toml.example"), join(project, "wrangler.toml"));
  const printed = execFileSync(
    process.execPath,
    [WRANGLER, "deploy", "--dry-run", "--env", "production", "--outdir", "bundle"],
    { cwd: project, encoding: "utf8", env: { ...process.env, WRANGLER_SEND_METRICS: "false", CI: "true" } },
  );
  assert.match(printed, /env\.REGISTRY \(r2-registry\)\s+R2 Bucket/);
  assert.doesNotMatch(printed, /warning/i);

  const bundled = filesOf(join(project, "bundle")).filter((name) => name !== "README.md"); // wrangler's own note
  const own = filesOf(join(ROOT, "src"));
  const vendored = filesOf(join(ROOT, "python_modules")).map((name) => join("python_modules", name));
  assert.deepEqual(bundled, [...own, ...vendored].sort());

  const packages = readdirSync(join(ROOT, "python_modules")).filter((name) => name.endsWith(".dist-info"));
  assert.deepEqual(packages.map((name) => name.replace(/-[0-9.]+\.dist-info$/, "")).sort(), [
    "pyjwt",
    "workers_runtime_sdk",
  ]);
});

test("src holds nothing but Python", () => {
  assert.deepEqual(
    filesOf(join(ROOT, "src")).filter((name) => !name.endsWith(".py")),
    [],
  );
});
