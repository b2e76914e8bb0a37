// What `wrangler deploy --env production` would upload, with the example configuration.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { appendFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, relative, resolve } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { unstable_readConfig } from "wrangler";

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
  return wrangler(root, ["deploy", "--dry-run", "--env", "production", "--outdir", "bundle"]);
}

function wrangler(root, command, variables = {}) {
  return spawnSync(process.execPath, [WRANGLER, ...command], {
    cwd: root,
    encoding: "utf8",
    env: {
      ...process.env,
      PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}`, // as npx does
      WRANGLER_SEND_METRICS: "false",
      CI: "true",
      ...variables,
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

// The environment `production` of a configuration, as wrangler reads it: only what a deploy of ours uses.
function production(text) {
  const root = mkdtempSync(join(folder, "config-"));
  writeFileSync(join(root, "wrangler.toml"), text);
  const config = unstable_readConfig({ config: join(root, "wrangler.toml"), env: "production" }, { hideWarnings: true });
  const { name, main, build, triggers, r2_buckets, observability, workers_dev, routes, limits, analytics_engine_datasets, vars } = config;
  return {
    ...{ name, main: relative(root, main), build: build.command, crons: triggers.crons, r2_buckets, observability },
    ...{ workers_dev, routes, limits, analytics_engine_datasets, vars },
  };
}

const EXAMPLE = readFileSync(join(ROOT, "wrangler.toml.example"), "utf8");
// A commented setting is `# name = value` or `# [section]`; other comments are prose.
const COMMENTED = /^# (?=\w+ = |\[)/;
const SETTINGS = EXAMPLE.split("\n").filter((line) => COMMENTED.test(line));

// What uncommenting these lines changes: {routes, limits, ..., vars}
function changes(lines) {
  const text = EXAMPLE.split("\n").map((line) => (lines.includes(line) ? line.replace(COMMENTED, "") : line)).join("\n");
  const [before, after] = [production(EXAMPLE), production(text)];
  return Object.fromEntries(Object.keys(after).filter((key) => !isDeepStrictEqual(before[key], after[key])).map((key) => [key, after[key]]));
}

test("the example has the cleanup, the bucket and no var", () => {
  const { crons, r2_buckets, vars } = production(EXAMPLE);
  assert.deepEqual(crons, ["*/10 * * * *"]);
  assert.deepEqual(r2_buckets.map(({ binding, bucket_name }) => [binding, bucket_name]), [["REGISTRY", "r2-registry"]]);
  assert.equal(Object.keys(vars).length, 0);
});

for (const line of SETTINGS) {
  const name = /\w+/.exec(line)[0];
  test(`uncommenting ${name} in place sets it and nothing else`, () => {
    const changed = changes([line]);
    if (name === name.toUpperCase()) {
      assert.deepEqual(Object.keys(changed), ["vars"]);
      assert.deepEqual(Object.keys(changed.vars), [name]);
      assert.equal(typeof changed.vars[name], "string");
    } else assert.deepEqual(Object.keys(changed), [name]);
  });
}

test("uncommenting every line in place sets all of them", () => {
  const names = SETTINGS.map((line) => /\w+/.exec(line)[0]);
  const { vars, ...others } = changes(SETTINGS);
  assert.deepEqual([...Object.keys(vars), ...Object.keys(others)].sort(), names.sort());
});

test("every page has the address that a deploy gives", () => {
  const address = `${production(EXAMPLE).name}.<your-subdomain>.workers.dev`;
  const pages = ["README.md", ...readdirSync(join(ROOT, "docs"), { recursive: true }).map((name) => join("docs", name)), "wrangler.toml.example"];
  for (const page of pages.filter((name) => /\.(md|example)$/.test(name))) {
    const text = readFileSync(join(ROOT, page), "utf8");
    for (const found of text.match(/[\w.<>-]+\.workers\.dev/g) ?? []) assert.equal(found, address, page);
    if (["README.md", "docs/operating.md", "wrangler.toml.example"].includes(page)) assert.ok(text.includes(address), page);
  }
});

test("the migration page has the name that the old Worker has", () => {
  const page = readFileSync(join(ROOT, "docs/migrating-from-serverless-registry.md"), "utf8");
  // serverless-registry is deployed with `name` at the top and --env production.
  const old = production('name = "r2-registry"\nmain = "index.ts"\n[env.production]\n').name;
  assert.ok(page.includes(`\`${old}\``), old);
  // The page names the Worker where our example does.
  assert.equal(production(EXAMPLE.replace('\nname = "r2-registry"', `\nname = "${old}"`)).name, old);
});

test("a deploy without --env has no name and ends before the first call", () => {
  const root = project();
  const nowhere = { CLOUDFLARE_API_BASE_URL: "http://127.0.0.1:9", CLOUDFLARE_API_TOKEN: "none", CLOUDFLARE_ACCOUNT_ID: "none" };
  const { status, stdout, stderr } = wrangler(root, ["deploy"], nowhere);
  assert.notEqual(status, 0);
  assert.match(stdout + stderr, /You need to provide the name of your worker/);
});
