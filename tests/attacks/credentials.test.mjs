// Attacks on credentials that the registry sends elsewhere, with revoked tokens, and by upstream repositories with the
// name of a local one (docs/security.md).
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";

import { ADMIN, basic, bearer, digestOf, startRegistry, startServer } from "./support.mjs";

const PASSWORD = "the upstream's password";
const seen = []; // the requests to all servers, as "server METHOD path authorization"
const note = (server, request) => seen.push(`${server} ${request.method} ${request.url} ${request.headers.authorization ?? "-"}`);
const evil = await startServer((request, response) => {
  note("evil", request);
  const realm = request.url.includes("basic") ? 'Basic realm="x"' : `Bearer realm="${evil.url}/token",service="x"`;
  response.writeHead(request.url.startsWith("/token") ? 200 : 401, { "www-authenticate": realm }).end('{"token":"stolen"}');
});
const upstream = await startServer((request, response) => {
  note("upstream", request);
  if (request.url.includes("/redirects")) return void response.writeHead(307, { location: `${evil.url}${request.url}` }).end();
  if (request.url.includes("/realm")) return void response.writeHead(401, { "www-authenticate": `Bearer realm="${evil.url}/token",service="x"` }).end();
  if (request.url.includes("/manifests/")) {
    const body = '{"schemaVersion":2,"manifests":[]}';
    return void response.writeHead(200, { "content-type": "application/vnd.oci.image.index.v1+json", "content-length": body.length }).end(request.method === "HEAD" ? "" : body);
  }
  response.writeHead(404).end();
});
const registry = await startRegistry({
  BEARER_TOKENS: "true",
  UPSTREAM_PASSWORD: PASSWORD,
  REGISTRIES_JSON: JSON.stringify([{ registry: upstream.url, username: "me", password_env: "UPSTREAM_PASSWORD" }]),
});
const stolen = basic("me", PASSWORD);
const token = async (query) => JSON.parse((await registry.send({ path: `/v2/token?service=x${query}`, authorization: ADMIN })).body);
const refresh = (value) => ({
  method: "POST",
  path: "/v2/token",
  headers: { "content-type": "application/x-www-form-urlencoded" },
  body: new URLSearchParams({ grant_type: "refresh_token", refresh_token: value, service: "x" }).toString(),
});

// The secret is deleted at the start and its effect checked at the end, since an isolate reads it once a minute.
const held = await token("&offline_token=true&scope=repository:a:pull");
const use = () => registry.send({ path: "/v2/a/tags/list", authorization: bearer(held.token) });
assert.equal((await use()).status, 404, "the token is accepted, and cached");
await (await registry.local.bucket()).delete("_registry/session-secret");
const deleted = performance.now();

registry.attacks(
  "servers that want an upstream's password",
  [
    {
      name: "a host that the upstream redirects to asks for credentials",
      send: ["bearer/redirects", "basic/redirects"].flatMap((name) => [`manifests/1`, `blobs/${digestOf("x")}`].map((path) => ({ path: `/v2/${name}/${path}`, authorization: ADMIN }))),
      answer: "502 UNAVAILABLE",
    },
    {
      name: "the upstream's response names a token server that the operator did not name",
      send: ["manifests/1", `blobs/${digestOf("x")}`].map((path) => ({ path: `/v2/a/realm/${path}`, authorization: ADMIN })),
      answer: "502 UNAVAILABLE",
    },
  ],
  [PASSWORD, stolen.slice("Basic ".length)],
);

test("no server got the upstream's password", () => {
  assert.ok(seen.some((line) => line.startsWith("evil ")), "the redirect was followed");
  assert.deepEqual(seen.filter((line) => line.includes(stolen.slice("Basic ".length)) || line.includes("stolen")), []);
  assert.deepEqual(seen.filter((line) => line.startsWith("evil ") && line.includes("/token")), []);
});

test("a repository with pushed images is not looked up at an upstream", async () => {
  await registry.pushImage("private/app", "a layer of ours");
  const before = seen.length;
  for (const path of ["manifests/missing", `manifests/${digestOf("x")}`, `blobs/${digestOf("x")}`]) {
    for (const method of ["GET", "HEAD"]) {
      const answer = await registry.send({ method, path: `/v2/private/app/${path}`, authorization: ADMIN });
      assert.equal(answer.status, 404, `${method} ${path}`);
    }
  }
  assert.equal(seen.length, before, "its name went to the upstream");
  const tags = JSON.parse((await registry.send({ path: "/v2/private/app/tags/list", authorization: ADMIN })).body);
  assert.deepEqual(tags.tags, ["1"]);
  assert.equal((await registry.send({ path: "/v2/copied/app/manifests/1", authorization: ADMIN })).status, 200);
  assert.ok(registry.log.lines.some((line) => line.includes("upstream-without-limits")), "the log warns of an upstream for everything");
});

test("a refresh token expires", () => {
  const { exp } = JSON.parse(Buffer.from(held.refresh_token.split(".")[1], "base64url"));
  assert.ok(exp > Date.now() / 1000 && exp < Date.now() / 1000 + 31 * 24 * 3600);
});

test("deleting the signing secret revokes tokens within a minute, in a running isolate", async () => {
  await sleep(Math.max(0, 61_000 - (performance.now() - deleted)));
  assert.equal((await use()).status, 401);
  assert.equal((await registry.send(refresh(held.refresh_token))).status, 401);
  const again = await token("&offline_token=true&scope=repository:a:pull");
  assert.equal((await registry.send({ path: "/v2/", authorization: bearer(again.token) })).status, 200);
  await registry.otherClientWorks();
});
