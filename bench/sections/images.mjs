// Whole images: skopeo pushes and pulls an image with five layers over TLS, and fifty clients pull an image at once.
import { execFile, execFileSync } from "node:child_process";
import { createHash, randomFillSync } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

import { digestOf } from "../support/client.mjs";
import { compared, inTurn, sayRows } from "../support/compare.mjs";
import { MIB } from "../support/report.mjs";
import { SKOPEO, startBare, startDockerRegistry, startOurs } from "../support/targets.mjs";

const LAYERS = [1024, MIB, 6 * MIB, 24 * MIB, 64 * MIB]; // bytes
const CROWD = 50; // clients
const CROWD_LAYERS = [1024, MIB, 6 * MIB]; // bytes
const NAME = "bench/image";
const BUDGETS = { push: { "docker-registry": { atMost: 3.5 } }, pull: { "docker-registry": { atMost: 1.2 } } };
const TYPES = "application/vnd.oci.image";

export async function run(rounds) {
  const folder = mkdtempSync(join(tmpdir(), "registry-bench-images-"));
  try {
    const rows = [...(await bySkopeo(folder, rounds)), await byACrowd(rounds)];
    sayRows("seconds", rows, 2);
    return { rows };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function bySkopeo(folder, rounds) {
  const tls = selfSigned(folder);
  const sides = { registry: await startOurs({ tls }), "docker-registry": await startDockerRegistry({ tls }) };
  try {
    const pushes = await inTurn(sides, rounds, ({ runtime }) => {
      const source = join(folder, "pushed");
      writeImage(source, LAYERS);
      return timed(() => copy("--dest", `oci:${source}:1`, imageAt(runtime.url)));
    });
    const pulls = await inTurn(sides, rounds, ({ runtime }) => {
      const target = join(folder, "pulled");
      rmSync(target, { recursive: true, force: true });
      return timed(() => copy("--src", imageAt(runtime.url), `oci:${target}:1`));
    });
    return [compared("skopeo push, 5 layers, TLS", "s", pushes, BUDGETS.push), compared("skopeo pull, 5 layers, TLS", "s", pulls, BUDGETS.pull)];
  } finally {
    await Promise.all(Object.values(sides).map((side) => side.dispose()));
  }
}

async function byACrowd(rounds) {
  const sides = { registry: await startOurs(), "bare Worker": await startBare(), "docker-registry": await startDockerRegistry() };
  const layers = CROWD_LAYERS.map((size) => randomFillSync(Buffer.alloc(size)));
  const paths = layers.map((data) => `/v2/${NAME}/blobs/${digestOf(data)}`);
  try {
    for (const [name, { client }] of Object.entries(sides)) {
      for (const [place, data] of layers.entries()) {
        if (name === "bare Worker") await client.send("PUT", paths[place], { body: data });
        else await client.pushChunked(NAME, [data], digestOf(data));
      }
    }
    const samples = await inTurn(sides, rounds, ({ client }) => timed(() => Promise.all(Array.from({ length: CROWD }, () => pullAll(client, paths)))));
    return compared(`${CROWD} clients pull ${CROWD_LAYERS.length} layers at once`, "s", samples);
  } finally {
    await Promise.all(Object.values(sides).map((side) => side.dispose()));
  }
}

async function pullAll(client, paths) {
  for (const [place, path] of paths.entries()) {
    const { size } = await client.send("GET", path);
    if (size !== CROWD_LAYERS[place]) throw new Error(`${path}: got ${size} bytes, expected ${CROWD_LAYERS[place]}`);
  }
}

const execute = promisify(execFile);

// `side` is --src or --dest, the one that is the registry. The image is copied byte for byte.
async function copy(side, source, target) {
  await execute(SKOPEO, ["--insecure-policy", "copy", "--quiet", "--preserve-digests", `${side}-tls-verify=false`, `${side}-creds=hello:world`, source, target]);
}

const imageAt = (url) => `docker://${new URL(url).host}/${NAME}:1`;

async function timed(work) {
  execFileSync("sync"); // so that earlier writes are not measured
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

// Writes an OCI layout with one image, tagged 1. Its layers are new to every registry: existing ones are not pushed.
function writeImage(folder, sizes) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, "blobs/sha256"), { recursive: true });
  const write = (mediaType, data) => {
    const hex = createHash("sha256").update(data).digest("hex");
    writeFileSync(join(folder, "blobs/sha256", hex), data);
    return { mediaType, digest: `sha256:${hex}`, size: data.length };
  };
  const layers = sizes.map((size) => write(`${TYPES}.layer.v1.tar`, randomFillSync(Buffer.allocUnsafe(size))));
  const config = { architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: layers.map(({ digest }) => digest) } };
  const manifest = {
    schemaVersion: 2,
    mediaType: `${TYPES}.manifest.v1+json`,
    config: write(`${TYPES}.config.v1+json`, Buffer.from(JSON.stringify(config))),
    layers,
  };
  const tagged = { ...write(manifest.mediaType, Buffer.from(JSON.stringify(manifest))), annotations: { "org.opencontainers.image.ref.name": "1" } };
  writeFileSync(join(folder, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [tagged] }));
  writeFileSync(join(folder, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
}

// Makes a self-signed certificate for loopback; returns {keyPath, certPath}.
function selfSigned(folder) {
  const [keyPath, certPath] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", keyPath, "-out", certPath, ...subject], { stdio: "ignore" });
  return { keyPath, certPath };
}
