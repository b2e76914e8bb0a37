// Attacks by anonymous clients that hold resources or cause cost. No test asserts a time; it waits for each response.
import assert from "node:assert/strict";
import { createHash, pbkdf2Sync } from "node:crypto";
import net from "node:net";
import { test } from "node:test";

import { ADMIN, basic, digestOf, MANIFEST, requests, startRegistry } from "./support.mjs";

const stretched = (password) => {
  const salt = createHash("sha256").update("salt").digest().subarray(0, 16);
  return `pbkdf2-sha256:100000:${salt.toString("base64url")}:${pbkdf2Sync(password, salt, 100_000, 32, "sha256").toString("base64url")}`;
};
const registry = await startRegistry({
  ACCOUNTS_JSON: JSON.stringify([{ name: "ann", secret: stretched("her password"), permissions: { "**": ["pull", "push"] } }]),
  BEARER_TOKENS: "true",
});

// Opens a connection that sends the head of a request and `sent` bytes of its body, and then stalls.
function stall({ line, headers = [], length, sent = 1 }) {
  const socket = net.connect({ host: registry.url.hostname, port: registry.url.port });
  socket.on("error", () => {});
  const { promise, resolve } = Promise.withResolvers();
  let received = "";
  socket.on("data", (data) => {
    received += data;
    if (received.includes("\r\n\r\n")) resolve(received.slice(0, received.indexOf("\r\n")));
  });
  socket.on("close", () => resolve("closed"));
  socket.write([`${line} HTTP/1.1`, `Host: ${registry.url.host}`, `Content-Length: ${length}`, ...headers, "", ""].join("\r\n"));
  socket.write(Buffer.alloc(sent, "a"));
  return { answered: promise, close: () => socket.destroy() };
}

const many = (count, request) => Array.from({ length: count }, () => stall(request));

test("a hundred stalled anonymous requests do not block another client, and each is answered", async () => {
  const stalled = many(100, { line: "PATCH /v2/a/blobs/uploads/x", length: 90_000_000 });
  await registry.otherClientWorks();
  assert.deepEqual(new Set(await Promise.all(stalled.map(({ answered }) => answered))), new Set(["HTTP/1.1 401 Unauthorized"]));
  await registry.healthy();
});

test("stalled forms of the token endpoint time out, and other clients log in meanwhile", async () => {
  const stalled = many(60, { line: "POST /v2/token", length: 32_000, sent: 31_000 });
  const answer = await registry.send({ path: "/v2/token?service=x&scope=repository:a:pull", authorization: ADMIN });
  assert.equal(answer.status, 200);
  const form = new URLSearchParams({ grant_type: "password", username: "ann", password: "her password" }).toString();
  const posted = await registry.send({ method: "POST", path: "/v2/token", headers: { "content-type": "application/x-www-form-urlencoded" }, body: form });
  assert.equal(posted.status, 200);
  const answers = await Promise.all(stalled.map(({ answered }) => answered));
  assert.ok(answers.every((line) => /^HTTP\/1.1 (408|503) /.test(line)), [...new Set(answers)].join());
});

test("a client that sends its whole large body before it reads gets the refusal", async () => {
  for (const headers of [{}, { "transfer-encoding": "chunked" }]) {
    const answer = await registry.send({ method: "PUT", path: "/v2/a/manifests/1", body: Buffer.alloc(20_000_000), headers: headers["transfer-encoding"] ? {} : headers });
    assert.equal(answer.status, 401);
  }
});

test("stalled pushes of one account time out, and smaller pushes of other clients succeed", async () => {
  const headers = [`Authorization: ${ADMIN}`, `Content-Type: ${MANIFEST}`];
  const stalled = many(40, { line: "PUT /v2/a/manifests/1", headers, length: 4_000_000, sent: 3_999_000 });
  await registry.otherClientWorks();
  const answers = await Promise.all(stalled.map(({ answered }) => answered));
  assert.ok(answers.every((line) => /^HTTP\/1.1 (408|503) /.test(line)), [...new Set(answers)].join());
  await registry.otherClientWorks();
});

test("wrong passwords get 401, then 429 with Retry-After; other clients still log in", async () => {
  const statuses = {};
  for (let number = 0; number < 60; number += 1) {
    const { status, headers } = await registry.send({ path: "/v2/", authorization: basic("ann", `wrong ${number}`) });
    statuses[status] = (statuses[status] ?? 0) + 1;
    if (status === 429) assert.match(headers.get("retry-after"), /^[1-9]\d*$/);
  }
  assert.deepEqual(Object.keys(statuses), ["401", "429"]);
  await registry.otherClientWorks();
});

registry.attacks("the cost of one request", [
  {
    name: "an index with 5,000 missing children",
    send: () => ({
      method: "PUT",
      path: "/v2/a/manifests/1",
      authorization: ADMIN,
      headers: { "content-type": "application/vnd.oci.image.index.v1+json" },
      body: JSON.stringify({ schemaVersion: 2, manifests: Array.from({ length: 5_000 }, (_, number) => ({ mediaType: MANIFEST, digest: digestOf(String(number)), size: 1 })) }),
    }),
    answer: "404 MANIFEST_BLOB_UNKNOWN",
    check: async (answer) => {
      assert.ok(answer.body.length < 16_384, `${answer.body.length} bytes`);
      const [line] = await registry.log.linesOf([answer]);
      assert.ok(line.class_a + line.class_b < 60, JSON.stringify(line));
    },
  },
  {
    name: "300 tags in one request",
    send: () => {
      const body = JSON.stringify({ schemaVersion: 2, manifests: [] });
      const query = Array.from({ length: 300 }, (_, number) => `tag=t${number}`).join("&");
      return { method: "PUT", path: `/v2/a/manifests/${digestOf(body)}?${query}`, authorization: ADMIN, headers: { "content-type": "application/vnd.oci.image.index.v1+json" }, body };
    },
    answer: "414 MANIFEST_INVALID",
  },
  { name: "methods and paths without an endpoint for anonymous clients", send: requests(undefined, ["POST /v2/a/blobs/uploads/", "PUT /", "PATCH /v2/token", "DELETE /healthz"], { body: undefined }), answer: "401 UNAUTHORIZED" },
]);
