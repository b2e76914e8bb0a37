// A bucket that cloudflare/serverless-registry wrote, on the real binding: it pulls, is migrated, and pulls again.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { toStderr } from "../../bench/support/targets.mjs";
import { startLocal } from "../../runtime/local.mjs";

const OBJECTS = JSON.parse(readFileSync("tests/fixtures/legacy-bucket.json", "utf8"));
const SYMLINK = "X-Serverless-Registry-Symlink";
const MANIFESTS = OBJECTS.filter(({ key }) => key.includes("/manifests/")).map(({ key }) => key);
const BLOBS = OBJECTS.filter(({ key }) => key.includes("/blobs/")).map(({ key }) => key);
const LINKS = OBJECTS.filter(({ custom_metadata }) => SYMLINK in custom_metadata);
const authorization = `Basic ${Buffer.from("hello:world").toString("base64")}`;

let registry;

before(async () => {
  registry = await startLocal({ vars: { USERNAME: "hello", PASSWORD: "world" }, onLog: toStderr });
  const bucket = await registry.bucket();
  for (const found of OBJECTS) {
    const { contentType } = found.http_metadata;
    await bucket.put(found.key, Buffer.from(found.body_base64, "base64"), {
      ...(contentType && { httpMetadata: { contentType } }),
      customMetadata: found.custom_metadata,
      ...(found.sha256_checksum && { sha256: found.sha256_checksum }),
    });
  }
});

after(() => registry?.dispose());

const ask = (method, path) => fetch(new URL(path, registry.url), { method, headers: { authorization, accept: "*/*" } });

// What every manifest and blob gives: {key: digest of the bytes}.
async function pullAll() {
  const pulled = {};
  for (const key of [...MANIFESTS, ...BLOBS]) {
    const answer = await ask("GET", `/v2/${key}`);
    assert.equal(answer.status, 200, key);
    pulled[key] = `sha256:${createHash("sha256").update(Buffer.from(await answer.arrayBuffer())).digest("hex")}`;
    if (key.includes("sha256:")) assert.equal(pulled[key], key.slice(key.indexOf("sha256:")));
  }
  return pulled;
}

test("everything pulls before, a blob is only deleted after, and everything else pulls then", async (t) => {
  const earlier = await pullAll();
  const { repositories } = await (await ask("GET", "/v2/_catalog")).json();
  assert.deepEqual(repositories, ["library/app", "mirror/app", "mirror2/app", "team/multi"]);

  const refused = await ask("DELETE", `/v2/${BLOBS[0]}`);
  assert.equal(refused.status, 409);
  t.diagnostic(`DELETE before: ${await refused.text()}`);

  let links = 0;
  for (let done = false; !done; ) {
    const answer = await ask("POST", "/v2/_migrate");
    assert.equal(answer.status, 200);
    const result = await answer.json();
    t.diagnostic(JSON.stringify(result));
    assert.deepEqual(result.problems, []);
    ({ done, links } = result);
  }
  assert.equal(links, LINKS.length);
  assert.deepEqual(await pullAll(), earlier);

  for (const name of repositories) {
    const verified = await (await ask("GET", `/v2/${name}/gc?mode=verify`)).json();
    assert.deepEqual(verified.problems, [], name);
  }
  assert.equal((await ask("DELETE", `/v2/${BLOBS[0]}`)).status, 202);
  assert.equal((await ask("GET", `/v2/${BLOBS[0]}`)).status, 404);
});
