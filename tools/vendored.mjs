// Checks that python_modules holds the tested files: `node tools/vendored.mjs`. wrangler runs it before it bundles
// ([build] in wrangler.toml), since pywrangler resolves the versions anew and `make vendor` does not.
//
// vendored.sha256 holds the checksums of the tested files, in the format of sha256sum. `make constraints` rewrites it
// (--write) from wheels that pip verified against constraints.txt.
//
// It is JavaScript because wrangler needs Node anyway; python3 may be missing, too old, or have another name.
import { createHash } from "node:crypto";
import { existsSync, lstatSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const VENDORED = join(ROOT, "python_modules");
const SUMS = join(ROOT, "vendored.sha256");
const CONSTRAINTS = join(ROOT, "constraints.txt");

// Files that are not compared: installer metadata of pip, uv and pywrangler, and files that wrangler does not upload.
const NOT_CODE = /^(\.synced|pyvenv\.cfg|[^/]+\.dist-info\/(INSTALLER|RECORD|REQUESTED))$|\.pyc$/;

// File names shown for each kind of difference: enough to recognize the package.
const SHOWN = 3;

if (process.argv[2] === "--write") {
  writeFileSync(SUMS, [...vendoredSums()].map(([name, sum]) => `${sum}  ${name}\n`).join(""));
} else {
  const problem = findProblem(testedSums(), vendoredSums());
  if (problem) {
    console.error(problem);
    process.exitCode = 1;
  }
}

// Map of file name to SHA-256, of all compared files.
function vendoredSums() {
  const names = existsSync(VENDORED) ? readdirSync(VENDORED, { recursive: true }) : [];
  return new Map(
    names
      .filter((name) => !lstatSync(join(VENDORED, name)).isDirectory())
      .map((name) => name.replaceAll(sep, "/"))
      .filter((name) => !NOT_CODE.test(name))
      .sort()
      .map((name) => [name, createHash("sha256").update(readFileSync(join(VENDORED, name))).digest("hex")]),
  );
}

function testedSums() {
  const lines = readFileSync(SUMS, "utf8").split(/\r?\n/).filter(Boolean);
  return new Map(lines.map((line) => [line.slice(66), line.slice(0, 64)]));
}

// Returns an error message, or undefined.
function findProblem(tested, vendored) {
  const unpinned = versionsOf(tested).filter((pin) => !pins().includes(pin));
  if (unpinned.length) return `vendored.sha256 has ${unpinned.join(", ")}, which constraints.txt does not pin: run \`make constraints\`.`;

  const names = (kind, list) => {
    if (!list.length) return [];
    const more = list.length > SHOWN ? ` and ${list.length - SHOWN} more` : "";
    return [`${kind} ${list.slice(0, SHOWN).join(", ")}${more}`];
  };
  const differences = [
    ...names("changed:", [...tested.keys()].filter((name) => vendored.has(name) && vendored.get(name) !== tested.get(name))),
    ...names("missing:", [...tested.keys()].filter((name) => !vendored.has(name))),
    ...names("not tested:", [...vendored.keys()].filter((name) => !tested.has(name))),
  ];
  if (!differences.length) return undefined;
  return `python_modules is not what was tested (${differences.join("; ")}): run \`uv run pywrangler sync --force\` or \`make vendor\`, and do not deploy while this error remains.`;
}

// ["pyjwt==1.2.3"], from the names of the packages' .dist-info folders.
function versionsOf(sums) {
  const folders = [...sums.keys()].map((name) => /^(.+)-([^-]+)\.dist-info\//.exec(name)).filter(Boolean);
  return [...new Set(folders.map(([, name, version]) => `${name.toLowerCase().replace(/[-_.]+/g, "-")}==${version}`))];
}

function pins() {
  return readFileSync(CONSTRAINTS, "utf8").match(/^[a-z0-9-]+==[^\s\\]+/gm) ?? [];
}
