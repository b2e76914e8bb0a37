// Attacks by headers: of pages of other origins, of proxies, malformed Basic credentials, injection into responses.
// Neither the work nor the response to a wrong password tells whether an account exists: the former is tested in
// tests/unit/access/test_authenticator.py (test_the_work_does_not_tell_who_exists), the latter in
// token_endpoint.test.mjs.
import assert from "node:assert/strict";

import { account, ADMIN, base64, basic, bearer, digestOf, MANIFEST, requests, sha256, startRegistry } from "./support.mjs";

const [USER, SECRET] = ["j\u00f6rg", "pass:w\u00f6rd"];
const RIGHT = basic(USER, SECRET);
const CI = ["ci", "a generated token"];
const UI = "https://ui.example.com";

const registry = await startRegistry({
  ACCOUNTS_JSON: JSON.stringify([account(USER, SECRET, { "**": ["pull", "push"] }), account(...CI, { "ci/**": ["pull", "push"] })]),
  BEARER_TOKENS: "true",
  CORS_ORIGINS: `${UI} http://localhost:3000`,
});

const image = await registry.pushImage("app", "a layer");
const version = (authorization, headers = {}) => ({ path: "/v2/", authorization, headers });
const raw = (...lines) => `${lines.join("\r\n")}\r\n\r\n`;

// ------------------------------------------------------------------ browsers
const LOOKALIKES = [
  "null",
  "*",
  "http://ui.example.com",
  "HTTPS://UI.EXAMPLE.COM",
  ...[":444", ".evil.example", ".", "/", "@evil.example", " https://evil.example", ":3000"].map((end) => UI + end),
  ...["evil-ui.example.com", "uixexample.com", "sub.ui.example.com", "example.com", `evil.example/${UI}`, `evil.example, ${UI}`].map(
    (rest) => `https://${rest}`,
  ),
  "http://localhost",
  "http://localhost:30000",
];
const isClosed = ({ headers }) => {
  assert.equal(headers.get("access-control-allow-origin"), null);
  assert.equal(headers.get("access-control-allow-credentials"), null);
};

registry.attacks("CORS", [
  {
    name: "no attack: a page of an allowed origin may read",
    send: version(RIGHT, { origin: UI }),
    answer: "200",
    check: ({ headers }) => assert.equal(headers.get("access-control-allow-origin"), UI),
  },
  {
    name: "origins that look like the allowed ones",
    send: LOOKALIKES.map((origin) => version(RIGHT, { origin })),
    answer: "200",
    check: isClosed,
  },
  {
    name: "such origins in a preflight request",
    send: LOOKALIKES.map((origin) => ({
      method: "OPTIONS",
      path: "/v2/app/manifests/1",
      headers: { origin, "access-control-request-method": "DELETE", "access-control-request-headers": "authorization" },
    })),
    answer: ["204", "403 DENIED"],
    check: isClosed,
  },
  {
    name: "such origins may not read a refusal either",
    send: LOOKALIKES.map((origin) => version(undefined, { origin })),
    answer: "401 UNAUTHORIZED",
    check: isClosed,
  },
]);

// ------------------------------------------------------------------ proxies
registry.attacks("headers that proxies set", [
  {
    name: "forwarded host and scheme do not change the token endpoint's address",
    send: [
      { "x-forwarded-host": "evil.example" },
      { "x-forwarded-proto": "gopher", "x-forwarded-port": "1", "x-forwarded-scheme": "https" },
      { forwarded: "host=evil.example;proto=https;for=127.0.0.1" },
      { "x-original-host": "evil.example", "x-host": "evil.example", "x-forwarded-server": "evil.example" },
    ].map((headers) => version(undefined, headers)),
    answer: "401 UNAUTHORIZED",
    check: ({ headers }) => assert.ok(headers.get("www-authenticate").startsWith(`Bearer realm="${new URL("/v2/token", registry.url)}"`)),
  },
  {
    name: "forwarded paths do not change the requested path",
    send: ["x-original-url", "x-rewrite-url", "x-forwarded-uri", "x-forwarded-path", "x-forwarded-prefix"].map((name) =>
      version(undefined, { [name]: "/healthz" }),
    ),
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "forwarded users do not authenticate",
    send: [
      "x-forwarded-user",
      "x-remote-user",
      "remote-user",
      "x-authenticated-user",
      "x-auth-token",
      "x-api-key",
      "cookie",
      "cf-access-jwt-assertion",
    ]
      .map((name) => version(undefined, { [name]: CI[0] }))
      .concat(version(undefined, { "proxy-authorization": RIGHT, "x-authorization": RIGHT, "x-forwarded-authorization": RIGHT })),
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "forwarded addresses do not replace a password",
    send: ["127.0.0.1", "::1", "10.0.0.1", "localhost", "127.0.0.1, 192.0.2.1"].map((address) =>
      version(
        undefined,
        Object.fromEntries(["x-forwarded-for", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip"].map((name) => [name, address])),
      ),
    ),
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "overridden methods: a GET deletes nothing",
    send: [
      ...["x-http-method-override", "x-http-method", "x-method-override"].flatMap((name) =>
        requests(ADMIN, ["GET /v2/app/manifests/1"], { headers: { [name]: "DELETE" } }),
      ),
      ...requests(ADMIN, ["GET /v2/app/manifests/1?_method=DELETE", "GET /v2/app/manifests/1"]),
    ],
    answer: "200",
  },
  {
    name: "Upgrade: the registry does not switch protocols",
    send: [
      raw(
        "GET /v2/ HTTP/1.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
      ),
      raw("GET /v2/ HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    ],
    answer: "401 UNAUTHORIZED",
  },
]);

// ------------------------------------------------------------------ Basic
const encoded = (...parts) => `Basic ${Buffer.concat(parts.map((part) => Buffer.from(part))).toString("base64")}`;
const refused = (name, authorizations) => ({ name, send: authorizations.map((authorization) => version(authorization)), answer: "401 UNAUTHORIZED" });

registry.attacks("malformed Basic credentials", [
  {
    name: "no attack: valid credentials are accepted, in any letter case of the scheme",
    send: ["Basic", "BASIC", "bAsIc"].map((scheme) => version(RIGHT.replace("Basic", scheme))),
    answer: "200",
  },
  refused("empty: nothing, spaces, a scheme alone", ["", " ", "Basic", "Basic ", "Bearer", "Bearer "]),
  refused(
    "without a colon, a name, a password, or all of it",
    ["", ":", "::", USER, `:${SECRET}`, `${USER}:`].map((text) => encoded(text)),
  ),
  refused("base64 that is cut, lengthened, in pieces or malformed", [
    ...[RIGHT.slice(0, -1), `${RIGHT}A`, `${RIGHT}=`, `${RIGHT}!`, RIGHT.replace(/(.{12})/, "$1 "), RIGHT.replace(/(.{12})/, "$1\t")],
    `Basic ${CI.join(":")}`,
  ]),
  refused("other character sets, overlong UTF-8, lone surrogates, a NUL", [
    ...["latin1", "utf16le"].map((charset) => encoded(Buffer.from(`${USER}:${SECRET}`, charset))),
    encoded([0xef, 0xbb, 0xbf], `${USER}:${SECRET}`), // a byte order mark
    encoded(`${USER}:`, [0xed, 0xa0, 0x80]), // a lone surrogate
    encoded(`${USER}:`, [0xc1, 0xb0], SECRET.slice(1)), // p in two bytes
    encoded(`${USER}:${SECRET}`, [0]),
    encoded([0xff, 0xfe, 0xfd]),
  ]),
  refused(
    "names that only look the same: capitals, blanks, other forms of Unicode",
    [USER.toUpperCase(), `${USER} `, ` ${USER}`, USER.normalize("NFD"), USER.replace("j", "\uff4a"), `${USER}\u200b`, `${USER}\n`].map((name) =>
      basic(name, SECRET),
    ),
  ),
  refused(
    "passwords that are cut, lengthened, of another form, of another account",
    [SECRET.slice(0, -1), `${SECRET} `, `${SECRET}\n`, SECRET + SECRET, SECRET.normalize("NFD"), CI[1]].map((secret) => basic(USER, secret)),
  ),
  refused(
    "what the settings have in place of the secret",
    [sha256(SECRET), `sha256:${sha256(SECRET)}`, sha256(SECRET).toUpperCase()].map((secret) => basic(USER, secret)),
  ),
  refused("other schemes", [
    ...["Digest ", "Bearer ", "Basic", "Basic:", "Basic,", "NotBasic "].map((scheme) => RIGHT.replace("Basic ", scheme)),
    ...['Digest username="ci", response="x"', "Negotiate AAAA", `Token ${CI[1]}`, bearer(CI[1])],
  ]),
  {
    name: "two credentials: of one account, of two, in either order",
    send: [
      [RIGHT, basic(...CI)],
      [basic(...CI), RIGHT],
      [RIGHT, RIGHT],
    ].map((both) => raw("GET /v2/ HTTP/1.1", ...both.map((one) => `Authorization: ${one}`))),
    answer: "401 UNAUTHORIZED",
  },
  refused(
    "20 and 60 KiB of them",
    [20, 60].map((kib) => basic("a".repeat(kib * 512), "b".repeat(kib * 256))),
  ),
]);

// ------------------------------------------------------------------ injection
const EVIL = [
  "\r\nX-Evil: 1\r\n\r\n<script>",
  '>; rel="next", <http://evil.example/>; rel="next',
  '"><script>alert(1)</script>',
  "\u2028\u0085\u0000",
];
const evil = EVIL.map(encodeURIComponent);
const isWhole = ({ headers }) => {
  assert.equal(headers.get("x-evil"), null);
  for (const name of ["location", "oci-tag", "www-authenticate"]) assert.doesNotMatch(headers.get(name) ?? "", /evil|script/);
  const link = headers.get("link");
  if (link !== null) assert.match(link, /^<\/v2\/[A-Za-z0-9._~%:/?&=+-]*>; rel="next"$/);
  assert.ok(!(headers.get("content-type") ?? "").includes("html"));
};

const SUBJECT = { mediaType: MANIFEST, digest: digestOf(image.manifest), size: image.manifest.length };

registry.attacks("injection into headers", [
  {
    name: "Link: the filter of referrers, which the header repeats",
    send: async () => {
      // Two entries of that type, as an older version stored them, exceed one page: only then the response has a Link.
      const bucket = await registry.local.bucket();
      for (const [number, text] of evil.entries()) {
        const artifactType = new URLSearchParams(`type=${text}`).get("type");
        for (const part of [1, 2]) {
          const digest = digestOf(`${number} ${part}`);
          const descriptor = { mediaType: MANIFEST, digest, size: 1, artifactType, annotations: { large: "x".repeat(3_000_000) } };
          await bucket.put(`app/_referrers/${SUBJECT.digest}/${digest}`, JSON.stringify(descriptor));
        }
      }
      return requests(
        RIGHT,
        evil.map((text) => `GET /v2/app/referrers/${SUBJECT.digest}?artifactType=${text}`),
      );
    },
    answer: "200",
    check(answer) {
      isWhole(answer);
      assert.notEqual(answer.headers.get("link"), null);
    },
  },
  {
    name: "Link: the start of a listing",
    send: requests(
      RIGHT,
      evil.flatMap((text) => ["app/tags/list", "_catalog"].map((path) => `GET /v2/${path}?n=1&last=${text}`)),
    ),
    answer: "200",
    check: isWhole,
  },
  {
    name: "OCI-Tag: the tags of a push by digest",
    send: requests(
      RIGHT,
      evil.map((text) => `PUT /v2/app/manifests/${SUBJECT.digest}?tag=${text}`),
      { headers: { "content-type": MANIFEST }, body: image.manifest },
    ),
    answer: "400 MANIFEST_INVALID",
    check: isWhole,
  },
  {
    name: "Location: names, sources, digests and sessions of uploads",
    send: evil.flatMap((text) => [
      ...requests(RIGHT, [`POST /v2/app${text}/blobs/uploads/`]),
      // A mount that cannot be is an ordinary upload.
      ...requests(RIGHT, [`POST /v2/app/blobs/uploads/?mount=${SUBJECT.digest}&from=${text}`], { answer: "202" }),
      ...requests(RIGHT, [`POST /v2/app/blobs/uploads/?digest=${text}`, `POST /v2/app/blobs/uploads/?digest-algorithm=${text}`], {
        answer: "400 DIGEST_INVALID",
      }),
      ...requests(RIGHT, [`GET /v2/app/blobs/uploads/${text}`], { answer: "404 BLOB_UPLOAD_UNKNOWN" }),
    ]),
    answer: "400 NAME_INVALID",
    check: isWhole,
  },
  {
    name: "X-Request-Id: the id that Cloudflare gives a request",
    send: ['"><script>', "x".repeat(5000), "8f2b5c0d1e3a4b6c-FRA, x", "{}"].map((id) => version(RIGHT, { "cf-ray": id })),
    answer: "200",
    check: ({ headers }) => assert.match(headers.get("x-request-id"), /^[0-9a-f]{16}$/),
  },
  {
    name: "WWW-Authenticate: the repository name in the scope",
    send: requests(
      undefined,
      evil.map((text) => `GET /v2/app${text}/manifests/1`),
    ),
    answer: "401 UNAUTHORIZED",
    check: isWhole,
  },
]);
