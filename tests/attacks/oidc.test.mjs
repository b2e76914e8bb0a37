// Attacks with identity tokens (OpenID Connect) of an issuer on loopback. tests/unit/access/test_oidc.py covers the
// rules and the rotation of keys on fakes, tests/workerd/auth.test.mjs an issuer that redirects or does not answer.
import assert from "node:assert/strict";

import { basic, bearer, now, startRegistry, startServer } from "./support.mjs";
import { hmacToken, Key, soon, withSegment } from "./tokens.mjs";

const github = new Key("RS256", "key-1");
const attacker = new Key("RS256", "key-1");
const SHARED = "a secret that stands on the page of keys by mistake";

// The issuer's key set has further keys: one for another use, one too short, a secret by mistake, and malformed ones.
const encrypting = new Key("RS256", "encrypting");
const short = new Key("RS256", "short", { modulusLength: 1024 });
const shared = { kty: "oct", k: Buffer.from(SHARED).toString("base64url"), kid: "shared", alg: "HS256" };
const KEYS = [github.jwk(), { ...encrypting.jwk(), use: "enc" }, short.jwk(), shared, { kty: "EC" }, "text", null];
// The key of another issuer, which has more permissions.
const other = new Key("RS256", "key-2");
const issuer = await startServer((request, response) => {
  response.setHeader("content-type", "application/json").end(JSON.stringify({ keys: request.url === "/jwks" ? KEYS : [other.jwk()] }));
});
const evil = await startServer((request, response) => response.end(JSON.stringify({ keys: [attacker.jwk()] })));

const trust = (path, rules) => ({ issuer: `${issuer.url}${path}`, jwks: `${issuer.url}${path}`, audience: "registry.example", rules });
const registry = await startRegistry({
  OIDC_ISSUERS_JSON: JSON.stringify([
    trust("/jwks", [
      { claims: { repository: "org/app", ref: ["refs/heads/main", "refs/tags/*"] }, permissions: { "org/app": ["pull", "push"] } },
      { claims: { repository: "org/*", ref: "refs/pull/*/merge" }, permissions: { "org/**": ["pull"] } },
    ]),
    trust("/other", [{ claims: { sub: "**" }, permissions: { "**": ["pull", "push", "delete"] } }]),
  ]),
});

const claims = (more = {}) => ({
  iss: `${issuer.url}/jwks`,
  aud: "registry.example",
  sub: "repo:org/app:ref:refs/heads/main",
  repository: "org/app",
  ref: "refs/heads/main",
  iat: now(),
  exp: soon(),
  ...more,
});
const identity = (more, header) => github.token(claims(more), header);
const SCOPE = "repository:org/app:pull,push";
const exchange = (token) => ({ path: `/v2/token?scope=${SCOPE}`, authorization: basic("github", token) });
const exchanges = (token) => [
  exchange(token),
  {
    method: "POST",
    path: "/v2/token",
    body: new URLSearchParams({ grant_type: "urn:ietf:params:oauth:grant-type:token-exchange", subject_token: token, scope: SCOPE }),
  },
];
const answered = (answer) => (name, make) => ({ name, send: () => [make()].flat().flatMap(exchanges), answer });
const refused = answered("401 UNAUTHORIZED");
const denied = answered("403 DENIED");

registry.attacks("identity tokens", [
  answered("200")("no attack: the tokens that the others are made from are exchanged", () => [
    identity(),
    other.token(claims({ iss: `${issuer.url}/other` })),
  ]),
  refused("aud: another registry, missing, or not a name", () =>
    ["https://github.com/org", "registry.example.evil", "", undefined, null, [], ["a"], { "registry.example": 1 }].map((aud) => identity({ aud })),
  ),
  refused("exp: expired, missing or infinite", () => [
    ...[now() - 31, undefined, null, "never"].map((exp) => identity({ exp })),
    ...["1e999", "NaN"].map((text) => github.token(JSON.stringify(claims({ exp: "HERE" })).replace('"HERE"', text))),
  ]),
  refused("nbf, iat: not valid yet", () => ["nbf", "iat"].map((name) => identity({ [name]: now() + 3600 }))),
  refused("the attacker's key with the issuer's kid", () => attacker.token(claims())),
  refused("alg none, unsigned and with another token's signature", () => [
    withSegment(identity({}, { alg: "none" }), 2, ""),
    withSegment(identity(), 0, { alg: "none", kid: "key-1" }),
  ]),
  refused("HS256 with the issuer's public key as the secret, and with a secret from its key set", () => [
    ...[github.jwk().n, github.pem(), JSON.stringify(github.jwk())].map((key) => hmacToken(key, claims(), { kid: "key-1" })),
    hmacToken(SHARED, claims(), { kid: "shared" }),
  ]),
  refused("keys of the key set that are for another use or too short", () => [encrypting, short].map((key) => key.token(claims()))),
  refused("iss: similar to the issuer, several issuers, the attacker's own", () =>
    [`${issuer.url}/jwks/`, issuer.url, `${issuer.url}/JWKS`, `${issuer.url}/jwks#`, [`${issuer.url}/jwks`], { url: issuer.url }, null, evil.url].map(
      (iss) => identity({ iss }),
    ),
  ),
  refused("iss: one issuer signs in the name of another with more permissions", () => [
    ...["key-1", "key-2"].map((kid) => identity({ iss: `${issuer.url}/other` }, { kid })),
    other.token(claims()),
  ]),
  {
    ...refused("kid: unknown names, a path, jku and x5u: the issuer does not get a request for each, other servers get none", () => [
      ...Array.from({ length: 30 }, (_, number) => identity({}, { kid: `invented-${number}` })),
      ...[["key-1"], {}, 5, "../jwks", `${evil.url}/jwks`].map((kid) => identity({}, { kid })),
      attacker.token(claims(), { jku: `${evil.url}/jwks`, x5u: `${evil.url}/jwks`, jwk: attacker.jwk() }),
    ]),
    check() {
      assert.deepEqual(evil.asked, []);
      // One request at the beginning, and one a minute for unknown names.
      assert.ok(issuer.asked.length < 10, `asked ${issuer.asked.length} times`);
    },
  },
  refused("changed claims with the signature of the original ones", () => [
    withSegment(identity({ repository: "org/other" }), 1, claims()),
    withSegment(identity({ exp: now() - 3600 }), 1, claims()),
  ]),
  refused("unsigned, empty and malformed tokens", () => [
    "",
    "x.y.z",
    "x".repeat(20_000),
    hmacToken("", claims()),
    hmacToken("", claims({ iss: "r2-registry", aud: "token" })),
    withSegment(identity(), 2, ""),
  ]),
  refused("duplicate claims, and claims that are not an object", () => [
    github.token(`{"repository":"evil/app",${JSON.stringify(claims()).slice(1)}`),
    github.token("[]"),
    github.token('"text"'),
  ]),
]);

registry.attacks("rules", [
  denied("claims that only resemble the rule's", () =>
    ["org/app2", "evil/org/app", "org/app/x", "ORG/app", "org/app\n", "\norg/app", "org/app ", "org/app\0", "org/../org/app", "\u043erg/app"].map(
      (repository) => identity({ repository }),
    ),
  ),
  denied("claims that are themselves globs", () => [
    identity({ repository: "*" }),
    identity({ repository: "**" }),
    identity({ repository: "org/*", ref: "refs/tags/**/x" }),
  ]),
  denied("claims that are no text", () => [["org/app"], { "org/app": 1 }, null, true, undefined].map((repository) => identity({ repository }))),
  denied("a ref of more segments than the rule's star is for, and one claim of two", () =>
    ["refs/tags/a/b", "refs/heads/main2", "refs/heads/main/x", undefined].map((ref) => identity({ ref })),
  ),
  {
    name: "a fork's pull request pulls, and does not push",
    send: async () => {
      const { token } = JSON.parse((await registry.send(exchange(identity({ ref: "refs/pull/5/merge" })))).body);
      return [{ method: "POST", path: "/v2/org/app/blobs/uploads/", authorization: bearer(token) }];
    },
    answer: "403 DENIED",
  },
  {
    name: "an identity token is accepted at the token endpoint only",
    send: () => [bearer(identity()), basic("github", identity())].map((authorization) => ({ path: "/v2/", authorization })),
    answer: "401 UNAUTHORIZED",
  },
]);
