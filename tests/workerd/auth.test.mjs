// Authentication in real workerd: signatures by its Web Crypto, an issuer on loopback, tokens over HTTP.
import assert from "node:assert/strict";
import { createHash, constants, generateKeyPairSync, pbkdf2Sync, randomBytes, sign } from "node:crypto";
import { once } from "node:events";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { startLocal } from "../../runtime/local.mjs";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const now = () => Math.floor(Date.now() / 1000);
const encode = (value) => Buffer.from(Buffer.isBuffer(value) ? value : JSON.stringify(value)).toString("base64url");
const basic = (name, secret) => `Basic ${Buffer.from(`${name}:${secret}`).toString("base64")}`;

const ALGORITHMS = {
  ES256: { pair: ["ec", { namedCurve: "P-256" }], sign: { dsaEncoding: "ieee-p1363" }, hash: "sha256" },
  ES384: { pair: ["ec", { namedCurve: "P-384" }], sign: { dsaEncoding: "ieee-p1363" }, hash: "sha384" },
  RS256: { pair: ["rsa", { modulusLength: 2048 }], sign: {}, hash: "sha256" },
  PS256: { pair: ["rsa", { modulusLength: 2048 }], sign: { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }, hash: "sha256" },
  EdDSA: { pair: ["ed25519", {}], sign: {}, hash: null },
};
const keys = Object.fromEntries(Object.entries(ALGORITHMS).map(([name, { pair }]) => [name, generateKeyPairSync(...pair)]));
const jwk = (algorithm) => ({ ...keys[algorithm].publicKey.export({ format: "jwk" }), kid: algorithm, alg: algorithm });
const pem = (algorithm) => keys[algorithm].publicKey.export({ format: "pem", type: "spki" });

function signToken(algorithm, claims, header = {}) {
  const signed = `${encode({ alg: algorithm, kid: algorithm, ...header })}.${encode(claims)}`;
  const options = ALGORITHMS[algorithm];
  return `${signed}.${encode(sign(options.hash, Buffer.from(signed), { key: keys[algorithm].privateKey, ...options.sign }))}`;
}

// The issuer's page of keys.
let served = 0;
const issuer = createServer((request, response) => {
  served += 1;
  if (request.url === "/moved") return response.writeHead(302, { location: "/jwks" }).end();
  if (request.url === "/silent") return undefined;
  response.setHeader("content-type", "application/json").end(JSON.stringify({ keys: [jwk("RS256"), { kty: "other" }] }));
});
issuer.listen(0, "127.0.0.1");
await once(issuer, "listening");
const ISSUER = `http://127.0.0.1:${issuer.address().port}`;
after(() => issuer.close() && issuer.closeAllConnections());

const trust = (path) => ({
  issuer: `${ISSUER}${path}`,
  jwks: `${ISSUER}${path}`,
  audience: "registry",
  rules: [{ claims: { repository: "org/app" }, permissions: { "org/app": ["pull", "push"] } }],
});

const salt = randomBytes(16);
const password = "correct horse";
const iterations = 100_000;
const ACCOUNTS = [
  { name: "ci", secret: `sha256:${createHash("sha256").update("generated").digest("hex")}`, permissions: { "team/**": ["pull", "push"] } },
  {
    name: "ann",
    secret: `pbkdf2-sha256:${iterations}:${encode(salt)}:${encode(pbkdf2Sync(password, salt, iterations, 32, "sha256"))}`,
    permissions: { "**": ["pull", "push", "delete"] },
  },
];

const logged = [];
const local = await startLocal({
  root: ROOT,
  vars: {
    USERNAME: "hello",
    PASSWORD: "world",
    ACCOUNTS_JSON: JSON.stringify(ACCOUNTS),
    JWT_REGISTRY_TOKENS_PUBLIC_KEY: Buffer.from(JSON.stringify({ keys: Object.keys(keys).map(jwk) })).toString("base64"),
    OIDC_ISSUERS_JSON: JSON.stringify(["/jwks", "/moved", "/silent"].map(trust)),
    ANONYMOUS_PULL: "public/**",
  },
  onLog: (line) => logged.push(line.message),
});
after(() => local.dispose());

const call = (method, path, authorization, options = {}) =>
  fetch(new URL(path, local.url), { method, ...options, headers: { ...(authorization && { authorization }), ...options.headers } });
const status = async (...args) => {
  const answer = await call(...args);
  await answer.arrayBuffer();
  return answer.status;
};

describe("signed tokens", () => {
  for (const algorithm of Object.keys(ALGORITHMS)) {
    test(`${algorithm}: right, changed, cut, of zeros, of another key`, async () => {
      const claims = { username: "v0", capabilities: ["pull"], exp: now() + 60 };
      const token = signToken(algorithm, claims);
      assert.equal(await status("GET", "/v2/", basic("any", token)), 200);
      assert.equal(await status("GET", "/v2/", `Bearer ${token}`), 200);
      const [head, , signature] = token.split(".");
      const raw = Buffer.from(signature, "base64url");
      for (const wrong of [
        `${head}.${encode({ ...claims, capabilities: ["push"] })}.${signature}`,
        ...[raw.subarray(1), raw.subarray(0, -1), Buffer.concat([raw, Buffer.alloc(1)]), Buffer.alloc(raw.length), Buffer.alloc(0)].map(
          (bytes) => `${token.slice(0, token.lastIndexOf("."))}.${encode(bytes)}`,
        ),
        signToken(algorithm, claims, { kid: Object.keys(keys).find((name) => name !== algorithm) }),
        signToken(algorithm, { ...claims, exp: now() - 31 }),
        signToken(algorithm, { ...claims, nbf: now() + 60 }),
      ]) {
        assert.equal(await status("GET", "/v2/", basic("any", wrong)), 401);
      }
    });
  }
});

describe("accounts", () => {
  test("a token's hash, a password's PBKDF2, the plain pair", async () => {
    for (const [name, secret] of [["ci", "generated"], ["ann", password], ["hello", "world"]]) {
      assert.equal(await status("GET", "/v2/", basic(name, secret)), 200);
      assert.equal(await status("GET", "/v2/", basic(name, `${secret}x`)), 401);
    }
    assert.equal(await status("POST", "/v2/team/app/blobs/uploads/", basic("ci", "generated")), 202);
    assert.equal(await status("POST", "/v2/other/blobs/uploads/", basic("ci", "generated")), 403);
  });

  test("nothing secret is in the log", async () => {
    await status("GET", "/v2/?a=b", basic("ann", "a wrong secret"));
    const line = JSON.parse(logged.at(-1));
    assert.deepEqual([line.event, line.status, line.account, line.endpoint], ["request", 401, "ann", "CheckVersion"]);
    assert.ok(!logged.join().includes("a wrong secret") && !logged.join().includes(Buffer.from("ann:a wrong secret").toString("base64")));
  });
});

describe("tokens", () => {
  test("the challenge leads to a token, and the token in", async () => {
    const refused = await call("GET", "/v2/team/app/manifests/1");
    const challenge = refused.headers.get("www-authenticate");
    const [, realm, service, scope] = challenge.match(/^Bearer realm="([^"]+)",service="([^"]+)",scope="([^"]+)"$/);
    assert.equal(realm, new URL("/v2/token", local.url).href);
    assert.equal(service, local.url.host);
    const url = `${realm}?${new URLSearchParams({ service, scope, offline_token: "true" })}`;
    const token = await (await call("GET", url, basic("ci", "generated"))).json();
    assert.equal(await status("GET", "/v2/team/app/manifests/1", `Bearer ${token.token}`), 404);
    assert.equal(await status("POST", "/v2/team/app/blobs/uploads/", `Bearer ${token.token}`), 401);
    const body = new URLSearchParams({ grant_type: "refresh_token", refresh_token: token.refresh_token, scope: "repository:team/app:push,pull" });
    const refreshed = await (await call("POST", "/v2/token", undefined, { body })).json();
    assert.equal(await status("POST", "/v2/team/app/blobs/uploads/", `Bearer ${refreshed.access_token}`), 202);
    assert.equal(await status("GET", "/v2/", `Bearer ${refreshed.access_token.slice(0, -4)}AAAA`), 401);
  });

  test("anonymous pulls, with a token and without", async () => {
    const token = await (await call("GET", "/v2/token?scope=repository:public/app:pull,push")).json();
    for (const authorization of [undefined, `Bearer ${token.token}`]) {
      assert.equal(await status("GET", "/v2/public/app/manifests/1", authorization), 404);
      assert.equal(await status("PUT", "/v2/public/app/manifests/1", authorization), 401);
      assert.equal(await status("GET", "/v2/team/app/manifests/1", authorization), 401);
    }
  });
});

describe("identity tokens", () => {
  const identity = (path, claims = {}) =>
    signToken("RS256", { iss: `${ISSUER}${path}`, aud: "registry", sub: "repo:org/app", repository: "org/app", exp: now() + 60, ...claims });
  const exchange = (token) => call("GET", "/v2/token?scope=repository:org/app:pull,push", basic("github", token));

  test("the issuer's keys are fetched once", async () => {
    const before = served;
    for (let turn = 0; turn < 3; turn += 1) {
      const { token } = await (await exchange(identity("/jwks"))).json();
      assert.equal(await status("POST", "/v2/org/app/blobs/uploads/", `Bearer ${token}`), 202);
    }
    assert.equal(served, before + 1);
    assert.equal((await exchange(identity("/jwks", { repository: "org/other" }))).status, 403);
    assert.equal((await exchange(identity("/jwks", { aud: "other" }))).status, 401);
  });

  test("redirects are not followed, and silence ends", async () => {
    for (const path of ["/moved", "/silent"]) {
      const refused = await exchange(identity(path));
      assert.equal(refused.status, 503);
      assert.equal(refused.headers.get("retry-after"), "60");
    }
  });
});

// The forms of keys, verified by Web Crypto without the rest of the registry.
describe("keys", async () => {
  const sources = mkdtempSync(join(tmpdir(), "crypto-"));
  cpSync(join(ROOT, "tests/workerd/crypto_entry.py"), join(sources, "crypto_entry.py"));
  const worker = await startLocal({ root: ROOT, entry: "crypto_entry", sources: ["src", sources] });
  after(async () => {
    await worker.dispose();
    rmSync(sources, { recursive: true });
  });
  const verify = async (key, token) => (await fetch(worker.url, { method: "POST", body: JSON.stringify({ key, token }) })).json();

  for (const algorithm of Object.keys(ALGORITHMS)) {
    test(`${algorithm}: JWK, base64 of it, PEM`, async () => {
      const text = JSON.stringify(jwk(algorithm));
      for (const key of [text, Buffer.from(text).toString("base64"), ...(algorithm === "PS256" ? [] : [pem(algorithm)])]) {
        const token = signToken(algorithm, { exp: now() });
        assert.equal(await verify(key, token), true);
        assert.equal(await verify(key, `${token.slice(0, token.lastIndexOf("."))}.AAAA`), false);
      }
    });
  }

  test("a key off the curve is told", async () => {
    const key = JSON.stringify({ kty: "EC", crv: "P-256", x: encode(Buffer.alloc(32, 1)), y: encode(Buffer.alloc(32, 2)) });
    assert.equal(typeof (await verify(key, signToken("ES256", {}))), "string");
  });
});
