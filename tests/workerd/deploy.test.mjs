// What `wrangler deploy --env production` would upload, with the example configuration.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { appendFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import { projectModules } from "../../runtime/local.mjs";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const WRANGLER = join(dirname(createRequire(import.meta.url).resolve("wrangler/package.json")), "bin/wrangler.js");

const folder = mkdtempSync(join(tmpdir(), "deploy-"));
after(() => rmSync(folder, { recursive: true }));

// A copy of all that a deploy reads.
function project() {
  const root = mkdtempSync(join(folder, "project-"));
  for (const name of ["src", "python_modules", "tools", "pyproject.toml", "constraints.txt", "vendored.sha256"]) {
    cpSync(join(ROOT, name), join(root, name), { recursive: true, dereference: true, filter: (path) => !path.includes("__pycache__") });
  }
  cpSync(join(ROOT, "wrangler.toml.example"), join(root, "wrangler.toml"));
  return root;
}

// {status, stdout, stderr}
function deploy(root) {
  return spawnSync(process.execPath, [WRANGLER, "deploy", "--dry-run", "--env", "production", "--outdir", "bundle"], {
    cwd: root,
    encoding: "utf8",
    env: {
      ...process.env,
      PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}`, // as npx does
      WRANGLER_SEND_METRICS: "false",
      CI: "true",
    },
  });
}

// What the check says on standard error, of the project at `root`, called from elsewhere.
function check(root) {
  const { status, stderr } = spawnSync(process.execPath, [join(root, "tools/vendored.mjs")], { cwd: folder, encoding: "utf8" });
  return { status, said: stderr };
}

// The files below a folder, without what Python compiles beside them.
function filesOf(folder) {
  return readdirSync(folder, { recursive: true })
    .filter((name) => statSync(join(folder, name)).isFile() && !name.includes("__pycache__"))
    .sort();
}

test("the dry run bundles exactly our modules and the vendored packages", () => {
  const root = project();
  const { status, stdout, stderr } = deploy(root);
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /node tools\/vendored\.mjs/);
  assert.match(stdout, /env\.REGISTRY \(r2-registry\)\s+R2 Bucket/);
  assert.doesNotMatch(stdout + stderr, /warning/i);

  const bundled = filesOf(join(root, "bundle")).filter((name) => name !== "README.md"); // wrangler's own note
  const own = filesOf(join(ROOT, "src"));
  const vendored = filesOf(join(ROOT, "python_modules")).map((name) => join("python_modules", name));
  assert.deepEqual(bundled, [...own, ...vendored].sort());

  const local = projectModules().map(({ path, contents }) => [path, contents]);
  const uploaded = bundled.map((name) => [name, readFileSync(join(root, "bundle", name))]);
  assert.deepEqual(new Map(local), new Map(uploaded), "what the local runtime runs is what a deploy uploads");

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

test("a deploy ends where a vendored package is not the tested one", () => {
  const root = project();
  appendFileSync(join(root, "python_modules/jwt/api_jwt.py"), "\n");
  const { status, stdout, stderr } = deploy(root);
  assert.notEqual(status, 0);
  assert.match(stdout + stderr, /python_modules is not what was tested \(changed: jwt\/api_jwt\.py\): run `uv run pywrangler sync --force`/);
  assert.equal(existsSync(join(root, "bundle")), false);
});

// What may differ between pip and pywrangler, and what wrangler does not upload.
const TAKEN = {
  "what pywrangler leaves": (modules) => {
    writeFileSync(join(modules, ".synced"), "1.17.9");
    writeFileSync(join(modules, "pyvenv.cfg"), "");
    const [info] = readdirSync(modules).filter((name) => name.endsWith(".dist-info"));
    writeFileSync(join(modules, info, "INSTALLER"), "uv");
    appendFileSync(join(modules, info, "RECORD"), "\n");
  },
  "compiled files": (modules) => {
    mkdirSync(join(modules, "jwt/__pycache__"));
    writeFileSync(join(modules, "jwt/__pycache__/utils.cpython-314.pyc"), "");
  },
};

for (const [name, change] of Object.entries(TAKEN)) {
  test(`the vendored packages are the tested ones with ${name}`, () => {
    const root = project();
    change(join(root, "python_modules"));
    assert.deepEqual(check(root), { status: 0, said: "" });
  });
}

const REFUSED = {
  "a changed file": [(modules) => appendFileSync(join(modules, "workers/fetch.py"), "#"), "changed: workers/fetch.py"],
  "a missing file": [(modules) => rmSync(join(modules, "jwt/types.py")), "missing: jwt/types.py"],
  "an added module": [(modules) => writeFileSync(join(modules, "registry.py"), ""), "not tested: registry.py"],
  "an added .pth": [(modules) => writeFileSync(join(modules, "a.pth"), "import os"), "not tested: a.pth"],
  "a hidden file": [(modules) => writeFileSync(join(modules, "jwt/.env"), ""), "not tested: jwt/.env"],
  "a note in a package": [(modules) => writeFileSync(join(modules, "jwt/pyvenv.cfg"), ""), "not tested: jwt/pyvenv.cfg"],
  "a file under another name": [
    (modules) => renameSync(join(modules, "asgi.py"), join(modules, "ASGI.py")),
    "missing: asgi.py; not tested: ASGI.py",
  ],
  "a link": [(modules) => symlinkSync("jwt/types.py", join(modules, "types.py")), "not tested: types.py"],
  "no package at all": [(modules) => rmSync(modules, { recursive: true }), /missing: \S+, \S+, \S+ and \d+ more/],
};

for (const [name, [change, difference]] of Object.entries(REFUSED)) {
  test(`the vendored packages are not the tested ones with ${name}`, () => {
    const root = project();
    change(join(root, "python_modules"));
    const { status, said } = check(root);
    assert.equal(status, 1);
    const [, differences] = /^python_modules is not what was tested \((.+)\): run .*\.\n$/.exec(said);
    if (typeof difference === "string") assert.equal(differences, difference);
    else assert.match(differences, difference);
  });
}

test("the tested packages are those of constraints.txt", () => {
  const root = project();
  const constraints = readFileSync(join(root, "constraints.txt"), "utf8");
  writeFileSync(join(root, "constraints.txt"), constraints.replace(/^pyjwt==.*? /m, "pyjwt==0.0.1 "));
  const { status, said } = check(root);
  assert.equal(status, 1);
  assert.match(said, /^vendored\.sha256 has pyjwt==\S+, which constraints\.txt does not pin: run `make constraints`\.\n$/);
});

test("the list of tested files is what writing it gives", () => {
  const root = project();
  const before = readFileSync(join(root, "vendored.sha256"), "utf8");
  execFileSync(process.execPath, [join(root, "tools/vendored.mjs"), "--write"]);
  assert.equal(readFileSync(join(root, "vendored.sha256"), "utf8"), before);
});
