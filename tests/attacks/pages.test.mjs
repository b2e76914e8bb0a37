// Attacks through browsers: stored content that a browser would render, and requests that web pages make it send.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ADMIN, digestOf, imageOf, MANIFEST, requests, startRegistry } from "./support.mjs";

const UI = "https://ui.example";
const registry = await startRegistry({ CORS_ORIGINS: UI });
const INDEX = "application/vnd.oci.image.index.v1+json";
const PAGE = `<script>fetch("/v2/_catalog")</script>`;
await registry.pushImage("team/app", "a layer");
const image = imageOf(Buffer.from("{}"), Buffer.from("a layer"));
const bare = JSON.stringify({ ...JSON.parse(image), mediaType: undefined });
const put = (body, type, tag = "evil") => ({ method: "PUT", path: `/v2/team/app/manifests/${tag}`, authorization: ADMIN, headers: type === undefined ? {} : { "content-type": type }, body });

const FOREIGN = ["text/html", "text/html; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "application/x-www-form-urlencoded", "text/javascript", "application/octet-stream", "application/vnd.a+xml", "application/vnd.a+json+html", "*/*"];

registry.attacks("media types that are not a manifest's", [
  ...FOREIGN.map((type) => ({
    name: type,
    send: [bare, image, JSON.stringify({ ...JSON.parse(image), mediaType: type }), PAGE].map((body) => put(body, type)),
    answer: "400 MANIFEST_INVALID",
    check: ({ body }) => assert.match(String(body), /Content-Type|mediaType/),
  })),
  ...["text/html\\r\\nX-Evil: 1", "text/html", "application/vnd.a+json\\u0000", "application/vnd.a+json\\r\\nSet-Cookie: a=b"].map((type) => ({
    name: `mediaType ${type}`,
    send: [put(bare.replace("{", `{"mediaType":"${type}",`), undefined), put(bare.replace("{", `{"mediaType":"${type}",`), "application/json")],
    answer: "400 MANIFEST_INVALID",
  })),
]);

registry.attacks("documents that two parsers read differently", [
  { name: "Manifests beside layers", send: put(image.replace("{", '{"Manifests":[],'), MANIFEST), answer: "400 MANIFEST_INVALID" },
  { name: "layers and Layers", send: put(image.replace("{", '{"Layers":[],'), MANIFEST), answer: "400 MANIFEST_INVALID" },
  { name: "layers with a long s", send: put(image.replace("{", '{"layer\u017f":[],'), MANIFEST), answer: "400 MANIFEST_INVALID" },
  { name: "layers twice", send: put(image.replace("{", '{"layers":[],'), MANIFEST), answer: "400 MANIFEST_INVALID" },
  { name: "a descriptor with Digest", send: put(image.replace('"digest"', '"Digest":"x","digest"'), MANIFEST), answer: "400 MANIFEST_INVALID" },
  { name: "an image with the type of an index", send: put(bare, INDEX), answer: "400 MANIFEST_INVALID" },
  { name: "an index with the type of an image", send: put('{"schemaVersion":2,"manifests":[]}', MANIFEST), answer: "400 MANIFEST_INVALID" },
]);

test("pushing the same bytes with another type does not change the type of the first push", async () => {
  assert.equal((await registry.send(put(bare, MANIFEST, "first"))).status, 201);
  assert.equal((await registry.send(put(bare, "application/vnd.evil+json", "second"))).status, 201);
  for (const reference of ["first", "second", digestOf(bare)]) {
    const { headers } = await registry.send({ path: `/v2/team/app/manifests/${reference}`, authorization: ADMIN });
    assert.equal(headers.get("content-type"), MANIFEST);
  }
});

test("every response forbids browsers to render it", async () => {
  const blob = `/v2/team/app/blobs/${digestOf("a layer")}`;
  const paths = ["/v2/team/app/manifests/1", blob, "/v2/team/app/tags/list", "/v2/_catalog", `/v2/team/app/referrers/${digestOf("x")}`, "/v2/team/app/manifests/none", "/v2/", "/nothing", "/healthz"];
  for (const request of requests(ADMIN, paths.flatMap((path) => [`GET ${path}`, `HEAD ${path}`])).concat(requests(undefined, paths.map((path) => `GET ${path}`)))) {
    const { headers } = await registry.send(request);
    assert.equal(headers.get("x-content-type-options"), "nosniff", request.path);
    assert.equal(headers.get("content-security-policy"), "default-src 'none'; sandbox", request.path);
    assert.equal(headers.get("cross-origin-resource-policy"), "same-origin", request.path);
    const asked = await registry.send({ ...request, headers: { origin: UI } });
    assert.equal(asked.headers.get("cross-origin-resource-policy"), "cross-origin", request.path);
  }
  assert.equal((await registry.send({ path: "/" })).headers.get("x-content-type-options"), "nosniff");
});

const UNSAFE = ["POST /v2/team/app/gc?mode=untagged&grace=0", "POST /v2/team/app/blobs/uploads/", "POST /v2/_migrate", "DELETE /v2/team/app/manifests/1", "PUT /v2/team/app/manifests/1", "PATCH /v2/team/app/blobs/uploads/x"];
const FORGED = {
  "a foreign Origin": { origin: "https://evil.example" },
  "an opaque Origin": { origin: "null" },
  "an Origin that begins like the registry's": { origin: `${registry.url.origin}.evil.example` },
  "an Origin that ends like the allowed one": { origin: "https://not-ui.example" },
  "the allowed host with another scheme": { origin: "http://ui.example" },
  "Sec-Fetch-Site alone": { "sec-fetch-site": "cross-site" },
  "the registry's own host with another scheme, which the browser reports as cross-site": { origin: `https://${registry.url.host}`, "sec-fetch-site": "cross-site" },
};
registry.attacks(
  "pages that use a password saved in the browser",
  Object.entries(FORGED).map(([name, headers]) => ({ name, send: requests(ADMIN, UNSAFE, { headers }), answer: "403 DENIED" })),
);

test("the registry's own origin, the allowed origin and other clients are served", async () => {
  for (const headers of [{ origin: registry.url.origin, "sec-fetch-site": "same-origin" }, { origin: UI, "sec-fetch-site": "cross-site" }, {}]) {
    const started = await registry.send({ method: "POST", path: "/v2/team/app/blobs/uploads/", authorization: ADMIN, headers });
    assert.equal(started.status, 202, JSON.stringify(headers));
  }
  // Reading has no effect: CORS decides which pages see the response.
  const read = await registry.send({ path: "/v2/team/app/tags/list", authorization: ADMIN, headers: { origin: "https://evil.example", "sec-fetch-site": "cross-site" } });
  assert.equal(read.status, 200);
  assert.equal(read.headers.get("access-control-allow-origin"), null);
});
