// The registry in real workerd, on the real R2 binding, called over HTTP.
import assert from "node:assert/strict";
import { createHash, randomBytes, randomInt } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { request } from "node:http";
import { dirname, resolve } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { startLocal } from "../../runtime/local.mjs";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const MIB = 1024 * 1024;
const USER = { authorization: `Basic ${Buffer.from("hello:world").toString("base64")}` };
const MANIFEST = "application/vnd.oci.image.manifest.v1+json";

const logged = [];
const local = await startLocal({
  root: ROOT,
  vars: { USERNAME: "hello", PASSWORD: "world" },
  onLog: (line) => logged.push(line.message),
});
after(() => local.dispose());

const digestOf = (data) => `sha256:${createHash("sha256").update(data).digest("hex")}`;
const call = (method, path, options = {}) =>
  fetch(new URL(path, local.url), { method, duplex: "half", ...options, headers: { ...USER, ...options.headers } });

// A body without a Content-Length.
async function* inPieces(data, size = 65_536) {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

const withDigest = (location, digest) => {
  const url = new URL(location, local.url);
  url.searchParams.set("digest", digest);
  return url;
};

async function startUpload(name) {
  const started = await call("POST", `/v2/${name}/blobs/uploads/`);
  assert.equal(started.status, 202);
  return started.headers.get("location");
}

async function pushBlob(name, data) {
  const done = await call("PUT", withDigest(await startUpload(name), digestOf(data)), { body: data });
  assert.equal(done.status, 201, await done.text());
  return digestOf(data);
}

async function checkBlob(name, data) {
  const path = `/v2/${name}/blobs/${digestOf(data)}`;
  const got = await call("GET", path);
  assert.equal(got.status, 200);
  assert.equal(got.headers.get("content-length"), String(data.length));
  assert.equal(digestOf(Buffer.from(await got.arrayBuffer())), digestOf(data));
  const head = await call("HEAD", path);
  assert.equal(head.headers.get("content-length"), String(data.length));
  assert.equal(head.headers.get("docker-content-digest"), digestOf(data));
}

async function pushImage(name, tag, layers) {
  const config = Buffer.from("{}");
  for (const blob of [config, ...layers]) await pushBlob(name, blob);
  const describe = (data, mediaType) => ({ mediaType, digest: digestOf(data), size: data.length });
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST,
      config: describe(config, "application/vnd.oci.image.config.v1+json"),
      layers: layers.map((layer) => describe(layer, "application/vnd.oci.image.layer.v1.tar")),
    }),
  );
  const put = await call("PUT", `/v2/${name}/manifests/${tag}`, { body: manifest, headers: { "content-type": MANIFEST } });
  assert.equal(put.status, 201, await put.text());
  return manifest;
}

test("the version check asks for credentials and takes them", async () => {
  const anonymous = await fetch(new URL("/v2/", local.url));
  assert.equal(anonymous.status, 401);
  assert.equal(anonymous.headers.get("www-authenticate"), 'Basic realm="container registry", charset="UTF-8"');
  assert.equal((await anonymous.json()).errors[0].code, "UNAUTHORIZED");
  assert.equal((await call("GET", "/v2/")).status, 200);
});

describe("blobs", () => {
  for (const size of [0, 1, 1000, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 40 * MIB]) {
    test(`${size} bytes in one PUT, in one known chunk, in one chunk of unknown length, in three`, async () => {
      const data = randomBytes(size);
      const name = `blobs/size-${size}`;
      await pushBlob(name, data);
      await checkBlob(name, data);
      for (const [way, chunks] of [["known", [data]], ["unknown", [inPieces(data)]], ["three", thirds(data)]]) {
        let location = await startUpload(`${name}/${way}`);
        for (const body of chunks) {
          const chunk = await call("PATCH", location, { body });
          assert.equal(chunk.status, 202, await chunk.text());
          location = chunk.headers.get("location");
        }
        const done = await call("PUT", withDigest(location, digestOf(data)));
        assert.equal(done.status, 201, await done.text());
        await checkBlob(`${name}/${way}`, data);
      }
    });
  }

  // Known and unknown lengths, in turn.
  function thirds(data) {
    const cuts = [0, 1, 2, 3].map((third) => Math.floor((data.length * third) / 3));
    return cuts.slice(0, 3).map((from, index) => {
      const part = data.subarray(from, cuts[index + 1]);
      return index % 2 ? part : inPieces(part);
    });
  }

  // Chunk sizes in bytes; a negative one comes without a Content-Length. Each blob's last bytes once by PATCH, once by PUT.
  for (const sizes of [
    [20 * MIB, -30 * MIB],
    [20, 100, MIB],
    [33 * MIB, -10 * MIB, 5],
    [1, -20 * MIB],
    Array(40).fill(64 * 1024),
    [0, -10, 0],
    [8 * MIB - 1, 1, -1],
  ]) {
    for (const lastInPut of [false, true]) {
      test(`chunks of ${sizes.length > 10 ? `${sizes.length} × ${sizes[0]}` : sizes}${lastInPut ? ", the last in the PUT" : ""}`, async () => {
        const data = randomBytes(sizes.reduce((sum, size) => sum + Math.abs(size), 0));
        const bodies = [];
        let at = 0;
        for (const size of sizes) {
          const chunk = data.subarray(at, (at += Math.abs(size)));
          bodies.push(size < 0 ? inPieces(chunk) : chunk);
        }
        const last = lastInPut ? bodies.pop() : undefined;
        let location = await startUpload("chunks");
        for (const body of bodies) {
          const chunk = await call("PATCH", location, { body });
          assert.equal(chunk.status, 202, await chunk.text());
          location = chunk.headers.get("location");
        }
        const done = await call("PUT", withDigest(location, digestOf(data)), { body: last });
        assert.equal(done.status, 201, await done.text());
        await checkBlob("chunks", data);
      });
    }
  }

  test("sha512, closed with a digest that has to be read", async () => {
    const data = randomBytes(9 * MIB);
    const digest = `sha512:${createHash("sha512").update(data).digest("hex")}`;
    const chunk = await call("PATCH", await startUpload("sha512"), { body: inPieces(data) });
    const done = await call("PUT", withDigest(chunk.headers.get("location"), digest));
    assert.equal(done.status, 201, await done.text());
    const got = await call("GET", `/v2/sha512/blobs/${digest}`);
    assert.ok(Buffer.from(await got.arrayBuffer()).equals(data));
  });

  test("a mounted blob has its true size, small and large", async () => {
    for (const size of [100, 9 * MIB]) {
      const data = randomBytes(size);
      await pushBlob("mount/source", data);
      const mounted = await call("POST", `/v2/mount/target/blobs/uploads/?mount=${digestOf(data)}&from=mount%2Fsource`);
      assert.equal(mounted.status, 201, await mounted.text());
      await checkBlob("mount/target", data);
    }
  });

  test("a chunk sent twice is refused with the truth", async () => {
    const location = await startUpload("twice");
    const first = await call("PATCH", location, { body: inPieces(randomBytes(9 * MIB)) });
    const again = await call("PATCH", location, { body: inPieces(randomBytes(9 * MIB)) });
    assert.equal(again.status, 416);
    assert.equal(again.headers.get("range"), `0-${9 * MIB - 1}`);
    assert.equal(again.headers.get("location"), first.headers.get("location"));
  });

  test("a wrong digest leaves nothing behind", async () => {
    const wrong = digestOf(Buffer.from("other"));
    for (const size of [5, 9 * MIB]) {
      const data = randomBytes(size);
      const put = await call("PUT", withDigest(await startUpload("wrong"), wrong), { body: data });
      assert.equal(put.status, 400);
      assert.equal((await put.json()).errors[0].code, "DIGEST_INVALID");
      const chunk = await call("PATCH", await startUpload("wrong"), { body: inPieces(data) });
      const closed = await call("PUT", withDigest(chunk.headers.get("location"), wrong));
      assert.equal(closed.status, 400);
      assert.equal((await closed.json()).errors[0].code, "DIGEST_INVALID");
    }
    const bucket = await local.bucket();
    assert.deepEqual((await bucket.list({ prefix: "wrong/" })).objects, []);
  });

  test("20 uploads at once", async () => {
    const data = randomBytes(9 * MIB);
    const uploads = Array.from({ length: 20 }, (_, index) => {
      const own = data.subarray(index);
      return { own, digest: digestOf(own) };
    });
    await Promise.all(
      uploads.map(async ({ own, digest }) => {
        const chunk = await call("PATCH", await startUpload("many"), { body: inPieces(own, MIB) });
        const done = await call("PUT", withDigest(chunk.headers.get("location"), digest));
        assert.equal(done.status, 201, await done.text());
        const head = await call("HEAD", `/v2/many/blobs/${digest}`);
        assert.equal(head.headers.get("content-length"), String(own.length));
      }),
    );
    await checkBlob("many", uploads[0].own);
  });
});

test("a chunk that breaks off changes nothing, and the session goes on", async () => {
  const location = await startUpload("reset");
  const first = await call("PATCH", location, { body: Buffer.from("01234") });
  const target = new URL(first.headers.get("location"), local.url);
  const broken = request(target, { method: "PATCH", headers: USER });
  broken.on("error", () => {}); // the reset below
  broken.write(randomBytes(9 * MIB));
  await once(broken, "drain");
  await new Promise((closed) => {
    broken.once("close", closed);
    broken.socket.resetAndDestroy();
  });
  const status = await call("GET", target);
  assert.equal(status.headers.get("range"), "0-4");
  const second = await call("PATCH", status.headers.get("location"), { body: Buffer.from("56789") });
  assert.equal(second.headers.get("range"), "0-9");
  const done = await call("PUT", withDigest(second.headers.get("location"), digestOf(Buffer.from("0123456789"))));
  assert.equal(done.status, 201);
});

test("an early refusal of a large body arrives as its status", async () => {
  for (const body of [randomBytes(20 * MIB), inPieces(randomBytes(20 * MIB))]) {
    const refused = await call("PATCH", "/v2/a/blobs/uploads/nonsense", { body });
    assert.equal(refused.status, 404);
    assert.equal((await refused.json()).errors[0].code, "BLOB_UPLOAD_UNKNOWN");
  }
});

test("nothing with a digest is compressed on the way", async () => {
  const data = Buffer.alloc(200_000, "compressible ");
  const manifest = await pushImage("plain", "1", [data]);
  for (const [path, bytes] of [[`/v2/plain/blobs/${digestOf(data)}`, data], ["/v2/plain/manifests/1", manifest]]) {
    for (const encoding of ["gzip", "br, gzip", "identity"]) {
      const got = await call("GET", path, { headers: { "accept-encoding": encoding } });
      assert.equal(got.headers.get("content-encoding"), null);
      assert.equal(got.headers.get("content-length"), String(bytes.length));
      assert.ok(Buffer.from(await got.arrayBuffer()).equals(bytes));
    }
  }
});

test("parts of blobs, and nothing of what the client has", async () => {
  for (const size of [1000, 9 * MIB]) {
    const data = randomBytes(size);
    const digest = await pushBlob("parts", data);
    const path = `/v2/parts/blobs/${digest}`;
    for (const [range, from, to] of [["bytes=10-99", 10, 100], [`bytes=${size - 5}-`, size - 5, size], ["bytes=-7", size - 7, size]]) {
      const got = await call("GET", path, { headers: { range, "if-range": `"${digest}"`, "accept-encoding": "gzip" } });
      assert.equal(got.status, 206);
      assert.equal(got.headers.get("content-range"), `bytes ${from}-${to - 1}/${size}`);
      assert.equal(got.headers.get("content-length"), String(to - from));
      assert.ok(Buffer.from(await got.arrayBuffer()).equals(data.subarray(from, to)));
    }
    assert.equal((await call("GET", path, { headers: { range: `bytes=${size}-` } })).status, 416);
    for (const method of ["GET", "HEAD"]) {
      const unchanged = await call(method, path, { headers: { "if-none-match": `"${digest}"` } });
      assert.equal(unchanged.status, 304);
      assert.equal((await unchanged.arrayBuffer()).byteLength, 0);
    }
  }
});

test("what is deleted is gone, and comes back when it is pushed again", async () => {
  const layer = randomBytes(9 * MIB);
  for (let turn = 0; turn < 2; turn += 1) {
    const manifest = await pushImage("deleted/app", "1", [layer]);
    await pushImage("deleted/app", "2", [layer]);
    assert.equal((await call("DELETE", "/v2/deleted/app/manifests/1")).status, 202);
    assert.equal((await call("GET", "/v2/deleted/app/manifests/1")).status, 404);
    assert.equal((await call("GET", "/v2/deleted/app/manifests/2")).status, 200);
    assert.equal((await call("DELETE", `/v2/deleted/app/manifests/${digestOf(manifest)}`)).status, 202);
    for (const reference of ["2", digestOf(manifest)]) {
      assert.equal((await call("HEAD", `/v2/deleted/app/manifests/${reference}`)).status, 404);
    }
    assert.deepEqual((await (await call("GET", "/v2/deleted/app/tags/list")).json()).tags, []);
    assert.equal((await call("DELETE", `/v2/deleted/app/blobs/${digestOf(layer)}`)).status, 202);
    assert.equal((await call("GET", `/v2/deleted/app/blobs/${digestOf(layer)}`)).status, 404);
  }
});

test("an image is pushed and pulled by tag and by digest", async () => {
  const manifest = await pushImage("team/app", "1.0", [randomBytes(1000), randomBytes(9 * MIB)]);
  for (const reference of ["1.0", digestOf(manifest)]) {
    const got = await call("GET", `/v2/team/app/manifests/${reference}`);
    assert.equal(got.headers.get("content-type"), MANIFEST);
    assert.equal(got.headers.get("docker-content-digest"), digestOf(manifest));
    assert.ok(Buffer.from(await got.arrayBuffer()).equals(manifest));
    const head = await call("HEAD", `/v2/team/app/manifests/${reference}`);
    assert.equal(head.headers.get("content-length"), String(manifest.length));
  }
});

test("a bucket that SR wrote is served", async () => {
  const objects = JSON.parse(readFileSync(resolve(ROOT, "tests/fixtures/legacy-bucket.json")));
  const bucket = await local.bucket();
  for (const found of objects) {
    await bucket.put(found.key, Buffer.from(found.body_base64, "base64"), {
      httpMetadata: found.http_metadata,
      customMetadata: found.custom_metadata,
      sha256: found.sha256_checksum ?? undefined,
    });
  }
  let manifests = 0;
  let links = 0;
  for (const found of objects) {
    const [, name, kind, reference] = /^(.+)\/(manifests|blobs)\/([^/]+)$/.exec(found.key) ?? [];
    if (!kind || name.includes("_referrers")) continue;
    const path = `/v2/${name}/${kind}/${reference}`;
    const [got, head] = [await call("GET", path), await call("HEAD", path)];
    const data = Buffer.from(await got.arrayBuffer());
    const digest = reference.startsWith("sha256:") ? reference : digestOf(Buffer.from(found.body_base64, "base64"));
    assert.equal(digestOf(data), digest, path);
    assert.equal(head.headers.get("docker-content-digest"), digest, path);
    assert.equal(head.headers.get("content-length"), String(data.length), path);
    if (kind === "manifests") manifests += 1;
    if (Object.keys(found.custom_metadata).includes("X-Serverless-Registry-Symlink")) links += 1;
  }
  assert.ok(manifests >= 14 && links >= 3, `${manifests} manifests, ${links} links`);
});

test("a bucket that SR wrote is migrated", async () => {
  await (await local.bucket()).delete("_registry/format"); // it was empty when this file began
  let answer;
  do {
    answer = await (await call("POST", "/v2/_migrate")).json();
  } while (!answer.done);
  assert.ok(answer.links >= 3, JSON.stringify(answer));
  assert.deepEqual(answer.problems, []);
  const head = await call("HEAD", "/v2/mirror2/app/blobs/sha256:cb5263cecd87c7cc3270025841846deada49cd6c33b4e272ef1beaab2cdf53ea");
  assert.equal(head.headers.get("content-length"), "542");
});

test("tags and the catalogue", async () => {
  await pushImage("listed/app", "1.0", [Buffer.from("layer")]);
  assert.deepEqual(await (await call("GET", "/v2/listed/app/tags/list")).json(), { name: "listed/app", tags: ["1.0"] });
  assert.ok((await (await call("GET", "/v2/_catalog")).json()).repositories.includes("listed/app"));
});

test("no request makes a 5xx", async () => {
  const seed = Number(process.env.SEED ?? randomInt(2 ** 31));
  const random = mulberry32(seed);
  const pick = (items) => items[Math.floor(random() * items.length)];
  const digest = digestOf(Buffer.alloc(0));
  const segments = ["a", "blobs", "uploads", "manifests", "tags", "list", "referrers", "_catalog", "", "..", "%ff", digest, "x.1.y", "é", "%00"];
  const queries = ["", `?digest=${digest}`, "?digest=x", "?mount=x&from=y", "?entry=0", "?entry=%ff", "?n=-1"];
  const methods = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"];
  const ranges = ["0-3", "9-3", "bytes=0-", "\u00e9"];
  for (let round = 0; round < 400; round += 1) {
    const method = pick(methods);
    const path = `/v2/${Array.from({ length: 1 + Math.floor(random() * 5) }, () => pick(segments)).join("/")}${pick(queries)}`;
    const headers = random() < 0.3 ? { "content-range": pick(ranges), "content-type": pick(ranges) } : {};
    const body = ["GET", "HEAD"].includes(method) ? undefined : pick([undefined, Buffer.from("body"), inPieces(Buffer.from("piece"))]);
    const answer = await call(method, path, { headers, body });
    await answer.arrayBuffer();
    assert.ok(answer.status < 500, `seed ${seed}: ${method} ${path} ${JSON.stringify(headers)} gave ${answer.status}`);
  }
  assert.deepEqual(logged.filter((line) => line.includes("internal-error")), []);
});

// A small generator with a seed: Math.random has none.
function mulberry32(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe("garbage", () => {
  test("is collected, and freed by the clock; what is left verifies", async () => {
    const name = "garbage/app";
    const [kept, gone] = [randomBytes(9 * MIB), randomBytes(9 * MIB)];
    await pushImage(name, "kept", [kept]);
    const manifest = await pushImage(name, "gone", [gone, randomBytes(10)]);
    assert.equal((await call("DELETE", `/v2/${name}/manifests/${digestOf(manifest)}`)).status, 202);
    const collect = async (query) => (await call("POST", `/v2/${name}/gc?${query}`)).json();
    const shown = await collect("grace=0&dry_run=true");
    assert.deepEqual([shown.success, shown.blobs, shown.garbage.blobs.length], [true, 2, 2]);
    const done = await collect("grace=0");
    assert.deepEqual([done.success, done.blobs, done.bytes], [true, 2, gone.length + 10]);
    assert.equal((await call("GET", `/v2/${name}/blobs/${digestOf(gone)}`)).status, 404);
    await checkBlob(name, kept);
    const bucket = await local.bucket();
    const keys = (await bucket.list({ prefix: `${name}/` })).objects.map(({ key }) => key);
    assert(!keys.some((key) => key.includes(digestOf(gone))));
    const refs = (await bucket.list({ prefix: "_refs/" })).objects.filter(({ key }) => key.endsWith(name));
    assert.equal(refs.length, 1);
    const verified = await (await call("GET", `/v2/${name}/gc?mode=verify`)).json();
    assert.deepEqual([verified.problems, verified.manifests], [[], 2]);
    assert.equal((await collect("mode=untagged&grace=0")).success, true);
  });

  test("the clock's ticks do a pass", async () => {
    for (let tick = 0; tick < 20; tick++) {
      const answer = await fetch(new URL("/cdn-cgi/local/scheduled", local.url));
      assert.equal(answer.status, 200);
      const state = await (await (await local.bucket()).get("_registry/cron")).json();
      if (state.stage === "done") return assert(state.repositories > 0);
    }
    assert.fail("a pass takes more than 20 ticks");
  });

  test("pushes and collections at once: what is acknowledged pulls", async () => {
    const name = "garbage/busy";
    const deadline = Date.now() + 10_000;
    const acknowledged = [];
    let collections = 0;
    const collect = async () => {
      while (Date.now() < deadline) {
        const answer = await call("POST", `/v2/${name}/gc?mode=${collections % 2 ? "untagged" : "unreferenced"}&grace=${collections % 3}`);
        assert([200, 409].includes(answer.status), await answer.text());
        collections += answer.status === 200;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    };
    const push = async (worker) => {
      for (let number = 0; Date.now() < deadline; number++) {
        const layer = Buffer.from(`${worker} ${number % 3} ${Date.now()}`);
        for (const blob of [Buffer.from("{}"), layer]) await pushBlob(name, blob);
        const describe = (data, mediaType) => ({ mediaType, digest: digestOf(data), size: data.length });
        const body = JSON.stringify({
          schemaVersion: 2,
          mediaType: MANIFEST,
          config: describe(Buffer.from("{}"), "application/vnd.oci.image.config.v1+json"),
          layers: [describe(layer, "application/vnd.oci.image.layer.v1.tar")],
        });
        const tag = `${worker}-${number}`;
        const put = await call("PUT", `/v2/${name}/manifests/${tag}`, { body, headers: { "content-type": MANIFEST } });
        assert([201, 404, 429, 503].includes(put.status), await put.text());
        if (put.status === 201) acknowledged.push([tag, layer]);
      }
    };
    await Promise.all([collect(), push("a"), push("b")]);
    assert(acknowledged.length > 5 && collections > 5, `${acknowledged.length} pushes, ${collections} collections`);
    for (const [tag, layer] of acknowledged) {
      assert.equal((await call("GET", `/v2/${name}/manifests/${tag}`)).status, 200);
      await checkBlob(name, layer);
    }
  });
});
