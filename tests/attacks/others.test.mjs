// Other attacks: secrets in the log, lone surrogates, floods of small requests.
import assert from "node:assert/strict";

import { account, base64, basic, bearer, digestOf, imageOf, MANIFEST, requests, sha256, startRegistry } from "./support.mjs";

const CI = ["ci", "a generated token"];
const RIGHT = basic(...CI);
const registry = await startRegistry({ ACCOUNTS_JSON: JSON.stringify([account(...CI, { "**": ["pull", "push"] })]), BEARER_TOKENS: "true" });
const image = await registry.pushImage("app", "a layer");

// ------------------------------------------------------------------ secrets
const SECRET = "xyzzy-plugh-49152";
// The secrets that the rows below send or get; the log must not have them.
const secrets = [CI[1], SECRET, base64(SECRET).slice(0, 20), sha256(SECRET)];

registry.attacks(
  "secrets in the log",
  [
    {
      name: "as a password, a name, a token, and with unknown schemes",
      send: [
        ...[basic(CI[0], SECRET), basic(SECRET, SECRET), basic(SECRET, ""), bearer(SECRET), bearer(`${base64(SECRET)}.${base64(SECRET)}.x`)],
        ...[`Digest ${SECRET}`, SECRET, `Basic ${SECRET}`],
      ].flatMap((authorization) => requests(authorization, ["GET /v2/", "GET /v2/app/manifests/1", "GET /nowhere", "GET /v2/token"])),
      answer: "401 UNAUTHORIZED",
    },
    {
      name: "in queries, cookies, and headers that the registry does not use",
      send: requests(undefined, [`GET /v2/?password=${SECRET}`, `GET /v2/app/manifests/1?access_token=${SECRET}`, `GET /nowhere?${SECRET}`], {
        headers: { cookie: SECRET, "x-api-key": SECRET, referer: `https://${SECRET}/`, "user-agent": SECRET, "cf-ray": SECRET },
      }),
      answer: "401 UNAUTHORIZED",
    },
    {
      name: "in forms of the token endpoint",
      send: [
        { grant_type: "password", username: CI[0], password: SECRET },
        { grant_type: "password", username: SECRET, password: SECRET },
        { grant_type: "refresh_token", refresh_token: SECRET, client_id: SECRET },
      ].map((form) => ({ method: "POST", path: "/v2/token", body: new URLSearchParams(form) })),
      answer: "401 UNAUTHORIZED",
    },
    {
      name: "an upload session, which is as good as a secret",
      send: async () => {
        const [start] = requests(RIGHT, ["POST /v2/app/blobs/uploads/"]);
        const { headers } = await registry.send(start);
        const path = headers.get("location");
        secrets.push(path.split("/").at(-1), headers.get("docker-upload-uuid"));
        return [
          ...requests(RIGHT, [`PATCH ${path}`], { headers: { "content-range": "5-9" }, body: "chunk", answer: "416 BLOB_UPLOAD_INVALID" }),
          ...requests(RIGHT, [`PUT ${path}?digest=${digestOf("other")}`], { body: "chunk", answer: "400 DIGEST_INVALID" }),
          ...requests(undefined, [`GET ${path}`], { answer: "401 UNAUTHORIZED" }),
          ...requests(RIGHT, [`GET ${path}`, `DELETE ${path}`]),
        ];
      },
      answer: "204",
    },
    {
      name: "tokens that were issued, and what resembles them",
      send: async () => {
        const [ask] = requests(RIGHT, ["GET /v2/token?offline_token=true"]);
        const { token, refresh_token: refresh } = JSON.parse((await registry.send(ask)).body);
        secrets.push(...[token, refresh].flatMap((text) => text.split(".").slice(1)));
        return [bearer(token.slice(0, -1)), bearer(refresh), basic(CI[0], token)].map((authorization) => ({ path: "/v2/", authorization }));
      },
      answer: "401 UNAUTHORIZED",
    },
  ],
  secrets,
);

// ------------------------------------------------------------------ characters
const SUBJECT = { mediaType: MANIFEST, digest: digestOf(image.manifest), size: image.manifest.length };
const put = (reference, body) => ({
  method: "PUT",
  path: `/v2/app/manifests/${reference}`,
  authorization: RIGHT,
  headers: { "content-type": MANIFEST },
  body,
});
// An image with the first one as its subject, and further members.
const putReferrer = (more) => {
  const body = JSON.stringify({ ...JSON.parse(imageOf(...image.blobs)), subject: SUBJECT, ...more });
  return put(digestOf(body), body);
};

registry.attacks("surrogates and other characters", [
  {
    name: "an escaped lone surrogate in annotations and types: the list of referrers is JSON in UTF-8",
    send: [
      { annotations: { key: "\ud800" } },
      { annotations: { "\udfff": "x" } },
      { annotations: { key: "\u0000\u2028" } },
      { artifactType: "application/\ud800" },
    ].map(putReferrer),
    // The rules of manifests decide whether it is accepted; an accepted one must be readable.
    answer: ["201", "400 MANIFEST_INVALID"],
    async check() {
      const [list] = requests(RIGHT, [`GET /v2/app/referrers/${SUBJECT.digest}`]);
      const { status, body } = await registry.send(list);
      assert.equal(status, 200);
      JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
    },
  },
  {
    name: "lone surrogates and other characters as bytes, other encodings, a byte order mark",
    send: () => {
      const text = imageOf(...image.blobs);
      const withBytes = (bytes) => Buffer.from(text.replace("{", `{"annotations":{"a":"${bytes}"},`), "latin1");
      return ["\xed\xa0\x80", "\xff", "\xc0\xaf", "\xf5\x80\x80\x80"]
        .map(withBytes)
        .concat(Buffer.from(text, "utf16le"), Buffer.from(`\ufeff${text}`))
        .map((body) => put("odd", body));
    },
    answer: "400 MANIFEST_INVALID",
  },
  {
    name: "lone surrogates in paths and queries",
    send: requests(RIGHT, [
      "GET /v2/app/manifests/%ed%a0%80",
      `GET /v2/app/referrers/${SUBJECT.digest}?artifactType=%ed%b0%80`,
      "GET /v2/app/tags/list?last=%ed%a0%80",
      "GET /v2/_catalog?last=%ed%a0%80",
      "GET /v2/token?scope=%ed%a0%80",
    ]),
    answer: "400 UNSUPPORTED",
  },
]);

// ------------------------------------------------------------------ floods
const raw = (...lines) => `${lines.join("\r\n")}\r\n\r\n`;
const getLayer = (range) => ({ path: `/v2/app/blobs/${digestOf(image.blobs[1])}`, authorization: RIGHT, headers: { range } });

registry.attacks("floods", [
  {
    name: "a thousand anonymous health checks cost few R2 calls",
    send: async () => {
      const answers = [];
      for (let round = 0; round < 50; round += 1) {
        answers.push(...(await Promise.all(Array.from({ length: 20 }, () => registry.send({ path: "/healthz" })))));
      }
      assert.ok(answers.every(({ status }) => status === 200));
      const lines = await registry.log.linesOf(answers);
      assert.equal(lines.length, answers.length);
      const calls = lines.reduce((sum, { class_a, class_b }) => sum + class_a + class_b, 0);
      // Every ten seconds all requests of a round may find that the cached result is too old.
      assert.ok(calls <= answers.length / 4, `${calls} calls`);
      return [];
    },
  },
  {
    name: "a thousand ranges in one request, and malformed ranges, return the blob once",
    send: [`bytes=${"0-1,".repeat(1000)}0-1`, "bytes=-", "lines=0-1", `bytes=${"9".repeat(400)}-`].map(getLayer),
    answer: "200",
    check: ({ body }) => assert.ok(body.equals(image.blobs[1])),
  },
  {
    name: "an absolute request-target tells no more than another one",
    send: [raw("GET http://evil.example/v2/ HTTP/1.1")],
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "requests that the runtime refuses do not reach the registry",
    send: [
      raw("CONNECT evil.example:443 HTTP/1.1"),
      raw("OPTIONS * HTTP/1.1"),
      raw("BREW /v2/ HTTP/1.1"),
      raw("GET /v2/ HTTP/1.1", "Host: evil.example"),
      raw("GET /v2/ HTTP/1.1", "Authorization: Basic a\0b"),
      raw("POST /v2/token HTTP/1.1", "Content-Length: 0", "Content-Length: 5"),
      raw("POST /v2/token HTTP/1.1", "Content-Length: -1"),
    ],
    answer: ["400", "500", "501"], // workerd's own responses
    check: ({ headers }) => assert.equal(headers.get("x-request-id"), null),
  },
]);
