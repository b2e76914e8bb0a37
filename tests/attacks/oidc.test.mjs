// Identity tokens (OpenID Connect) of an issuer on loopback. tests/unit/access/test_oidc.py has the rules and the issuer's keys over
// hours, on fakes; tests/workerd/auth.test.mjs an issuer that redirects or falls silent.
import assert from "node:assert/strict";

import { basic, bearer, now, startRegistry, startServer } from "./support.mjs";
import { hmacToken, Key, soon, withSegment } from "./tokens.mjs";

const github = new Key("RS256", "key-1");
const attacker = new Key("RS256", "key-1");
const SHARED = "a secret that stands on the page of keys by mistake";

// The page has more than the right key: for something else, too short, a secret by mistake, and what is no key.
const encrypting = new Key("RS256", "encrypting");
const short = new Key("RS256", "short", { modulusLength: 1024 });
const shared = { kty: "oct", k: Buffer.from(SHARED).toString("base64url"), kid: "shared", alg: "HS256" };
const KEYS = [github.jwk(), { ...encrypting.jwk(), use: "enc" }, short.jwk(), shared, { kty: "EC" }, "text", null];
// Of an issuer that is trusted with more.
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
  refused("aud: it is for another registry, for nobody, for what is no name", () =>
    ["https://github.com/org", "registry.example.evil", "", undefined, null, [], ["a"], { "registry.example": 1 }].map((aud) => identity({ aud })),
  ),
  refused("exp: it has expired, has no end, an infinite one", () => [
    ...[now() - 31, undefined, null, "never"].map((exp) => identity({ exp })),
    ...["1e999", "NaN"].map((text) => github.token(JSON.stringify(claims({ exp: "HERE" })).replace('"HERE"', text))),
  ]),
  refused("nbf, iat: it is for later", () => ["nbf", "iat"].map((name) => identity({ [name]: now() + 3600 }))),
  refused("somebody else's key under the issuer's name of it", () => attacker.token(claims())),
  refused("alg none, unsigned and with another token's signature", () => [
    withSegment(identity({}, { alg: "none" }), 2, ""),
    withSegment(identity(), 0, { alg: "none", kid: "key-1" }),
  ]),
  refused("HS256 with the issuer's public key as the secret, and with a secret that stands on its page of keys", () => [
    ...[github.jwk().n, github.pem(), JSON.stringify(github.jwk())].map((key) => hmacToken(key, claims(), { kid: "key-1" })),
    hmacToken(SHARED, claims(), { kid: "shared" }),
  ]),
  refused("keys of the page that are for something else, or too short", () => [encrypting, short].map((key) => key.token(claims()))),
  refused("iss: nearly the issuer, several issuers, the attacker's own", () =>
    [`${issuer.url}/jwks/`, issuer.url, `${issuer.url}/JWKS`, `${issuer.url}/jwks#`, [`${issuer.url}/jwks`], { url: issuer.url }, null, evil.url].map(
      (iss) => identity({ iss }),
    ),
  ),
  refused("iss: one issuer signs as another, which may more", () => [
    ...["key-1", "key-2"].map((kid) => identity({ iss: `${issuer.url}/other` }, { kid })),
    other.token(claims()),
  ]),
  {
    ...refused("kid: invented names, a path, jku and x5u: neither the issuer is asked for each, nor anybody else once", () => [
      ...Array.from({ length: 30 }, (_, number) => identity({}, { kid: `invented-${number}` })),
      ...[["key-1"], {}, 5, "../jwks", `${evil.url}/jwks`].map((kid) => identity({}, { kid })),
      attacker.token(claims(), { jku: `${evil.url}/jwks`, x5u: `${evil.url}/jwks`, jwk: attacker.jwk() }),
    ]),
    check() {
      assert.deepEqual(evil.asked, []);
      // Once at the beginning, and once a minute for names that are not known.
      assert.ok(issuer.asked.length < 10, `asked ${issuer.asked.length} times`);
    },
  },
  refused("changed claims under a right signature", () => [
    withSegment(identity({ repository: "org/other" }), 1, claims()),
    withSegment(identity({ exp: now() - 3600 }), 1, claims()),
  ]),
  refused("tokens that no issuer signed, empty ones, and what is none", () => [
    "",
    "x.y.z",
    "x".repeat(20_000),
    hmacToken("", claims()),
    hmacToken("", claims({ iss: "r2-registry", aud: "token" })),
    withSegment(identity(), 2, ""),
  ]),
  refused("duplicate claims, and claims that are no object", () => [
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
    name: "an identity token is for the token endpoint alone",
    send: () => [bearer(identity()), basic("github", identity())].map((authorization) => ({ path: "/v2/", authorization })),
    answer: "401 UNAUTHORIZED",
  },
]);
