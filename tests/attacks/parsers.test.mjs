// Attacks on parsers: nested, wide, long or malformed input is refused before a parser recurses. In Pyodide deep
// recursion ends the interpreter, and with it every later request of the isolate.
import { ADMIN, base64, bearer, digestOf, MANIFEST, startRegistry, startServer } from "./support.mjs";

const DEEP = 6090; // within the permitted length of a token
const encode = (text) => Buffer.from(text).toString("base64url");
const INDEX = "application/vnd.oci.image.index.v1+json";
const HEADER = encode('{"alg":"ES256","typ":"JWT"}');
const shapes = {
  "nested arrays": (depth) => "[".repeat(depth),
  "nested arrays with their ends": (depth) => "[".repeat(depth) + "]".repeat(depth),
  "nested objects": (depth) => '{"a":'.repeat(depth) + "1" + "}".repeat(depth),
  "arrays and objects in turns": (depth) => '[{"a":'.repeat(depth / 2),
  "nesting after a string with brackets and quotes": (depth) => `["\\\\\\"[[[",${"[".repeat(depth)}`,
  "nesting that breaks in the middle": (depth) => `${"[".repeat(depth)}}${"]".repeat(depth)}`,
};
const server = await startServer((request, response) => {
  // Deeply nested keys of an issuer, and manifests and tokens of an upstream.
  const body = "[".repeat(50_000);
  if (request.url.startsWith("/v2/asks/")) response.writeHead(401, { "www-authenticate": `Bearer realm="${server.url}/token",service="x"` }).end(body);
  else {
    const type = request.url.includes("/manifests/") ? MANIFEST : request.url.includes("/referrers/") ? INDEX : "application/json";
    response.writeHead(200, { "content-type": type, "content-length": body.length }).end(body);
  }
});
const registry = await startRegistry({
  BEARER_TOKENS: "true",
  JWT_REGISTRY_TOKENS_PUBLIC_KEY: base64(JSON.stringify({ kty: "EC", crv: "P-256", x: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", y: "x0cTyiuVjvYjTmMhSuZEM1KqyKCkQFpOMyvS4w1lW5k" })),
  OIDC_ISSUERS_JSON: JSON.stringify([{ issuer: "https://issuer.example", jwks: `${server.url}/keys`, audience: "registry", rules: [{ claims: { sub: "a" }, permissions: { "a/**": ["pull"] } }] }]),
  REGISTRIES_JSON: JSON.stringify([{ registry: server.url, prefix: "up" }, { registry: `${server.url}/asks`, prefix: "asks" }]),
});

const tokens = (text) => [`${HEADER}.${encode(text)}.c2ln`, `${encode(text)}.${encode("{}")}.c2ln`];
const form = (fields) => ({
  method: "POST",
  path: "/v2/token",
  headers: { "content-type": "application/x-www-form-urlencoded" },
  body: new URLSearchParams(fields).toString(),
});

registry.attacks(
  "malformed tokens",
  Object.entries(shapes).flatMap(([shape, make]) => [
    {
      name: `${shape}, as a Bearer token`,
      send: tokens(make(shape.includes("objects") ? 1000 : DEEP / 3)).concat(tokens("[".repeat(DEEP))).flatMap((token) => [1, 2, 3].map(() => ({ path: "/v2/", authorization: bearer(token) }))),
      answer: "401 UNAUTHORIZED",
    },
    {
      name: `${shape}, in place of a password and of a refresh token`,
      send: tokens(make(1000)).flatMap((token) => [
        { path: "/v2/", authorization: `Basic ${base64(`x:${token}`)}` },
        form({ grant_type: "refresh_token", refresh_token: token }),
        form({ grant_type: "urn:ietf:params:oauth:grant-type:token-exchange", subject_token: token }),
      ]),
      answer: "401 UNAUTHORIZED",
    },
  ]),
);

const put = (body) => ({ method: "PUT", path: "/v2/a/manifests/1", authorization: ADMIN, headers: { "content-type": MANIFEST }, body });
registry.attacks("malformed manifests", [
  ...Object.entries(shapes).map(([shape, make]) => ({ name: shape, send: [5_000, 500_000].map((depth) => put(make(depth))), answer: "400 MANIFEST_INVALID" })),
  { name: "a million values", send: put(`[${"0,".repeat(1_000_000)}0]`), answer: "400 MANIFEST_INVALID" },
  { name: "a million strings", send: put(`[${'"",'.repeat(1_000_000)}""]`), answer: "400 MANIFEST_INVALID" },
  { name: "an unterminated string of escapes", send: put(`"${'\\"'.repeat(1_000_000)}`), answer: "400 MANIFEST_INVALID" },
  { name: "a number of a million digits", send: put(`{"schemaVersion":${"9".repeat(1_000_000)}}`), answer: "400 MANIFEST_INVALID" },
  { name: "a duplicate name", send: put('{"schemaVersion":2,"schemaVersion":1}'), answer: "400 MANIFEST_INVALID" },
]);

registry.attacks("documents of other servers", [
  {
    name: "an issuer's keys",
    send: () => form({ grant_type: "urn:ietf:params:oauth:grant-type:token-exchange", subject_token: `${HEADER}.${encode('{"iss":"https://issuer.example","sub":"a"}')}.c2ln` }),
    answer: ["401 UNAUTHORIZED", "503 TOOMANYREQUESTS"],
  },
  { name: "an upstream's manifest", send: { path: "/v2/up/x/manifests/1", authorization: ADMIN }, answer: "502 UNAVAILABLE" },
  { name: "an upstream's list of referrers", send: { path: `/v2/up/x/referrers/${digestOf("x")}`, authorization: ADMIN }, answer: "502 UNAVAILABLE" },
  { name: "an upstream's token", send: { path: `/v2/asks/x/blobs/${digestOf("x")}`, authorization: ADMIN }, answer: "502 UNAVAILABLE" },
]);
