// Attacks on the token endpoint and the registry's own tokens. tests/unit/access/test_bearer_tokens.py covers its
// behaviour on fakes.
import assert from "node:assert/strict";
import { pbkdf2Sync } from "node:crypto";

import { account, base64, basic, bearer, now, requests, startRegistry } from "./support.mjs";
import { decode, encode, hmacToken, Key, soon, withSegment } from "./tokens.mjs";

const CI = ["ci", "a generated token"];
const ANN = ["ann", "correct horse"];
const salt = Buffer.from("0123456789abcdef");
const stretched = `pbkdf2-sha256:100000:${encode(salt)}:${encode(pbkdf2Sync(ANN[1], salt, 100_000, 32, "sha256"))}`;
const operator = new Key("ES256", "operator");

const registry = await startRegistry({
  ACCOUNTS_JSON: JSON.stringify([
    account(...CI, { "team/**": ["pull", "push"], "team/base": ["pull"] }),
    { name: ANN[0], secret: stretched, permissions: { "private/**": ["pull", "push", "delete"] } },
  ]),
  ANONYMOUS_PULL: "public/**",
  BEARER_TOKENS: "true",
  JWT_REGISTRY_TOKENS_PUBLIC_KEY: base64(JSON.stringify(operator.jwk())),
});

const ask = (query, credentials) => ({ path: `/v2/token?${new URLSearchParams(query)}`, authorization: credentials && basic(...credentials) });
const post = (fields) => ({ method: "POST", path: "/v2/token", body: new URLSearchParams(fields) });
// The endpoint's response as an object.
const get = async (request) => JSON.parse((await registry.send(request)).body);
const actionsOf = (answer) => decode(answer.token).access.map(({ name, actions }) => [name, actions]);
const push = (name, token) => ({ method: "POST", path: `/v2/${name}/blobs/uploads/`, authorization: bearer(token) });

// The tokens that the rows below try to misuse.
const SCOPE = "repository:team/app:pull,push";
const right = await get(ask({ scope: SCOPE, offline_token: "true" }, CI));
const anonymous = await get(ask({ scope: "repository:public/app:pull" }));
assert.ok(right.token && right.refresh_token && anonymous.token);

registry.attacks("requests for tokens", [
  { name: "no attack: the unchanged token pushes", send: push("team/app", right.token), answer: "202" },
  {
    name: "an empty user name, and an account with a wrong password",
    send: [post({ grant_type: "password", username: "", password: "" }), ask({ scope: SCOPE }, [CI[0], "wrong"])],
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "the response does not tell whether an account exists, for both kinds of accounts and both ways to log in",
    // The work is equal, too: tests/unit/access/test_authenticator.py (test_the_work_does_not_tell_who_exists).
    send: async () => {
      const told = async (request) => {
        const { status, headers, body } = await registry.send(request);
        const { request: id, ...rest } = JSON.parse(body);
        assert.equal(id, headers.get("x-request-id"));
        return { status, body: rest, headers: [...headers].filter(([name]) => name !== "x-request-id") };
      };
      const [first, ...others] = [CI[0], ANN[0], "stranger"].map((name) => [name, `wrong for ${name}`]);
      for (const door of [(pair) => ask({}, pair), (pair) => ({ path: "/v2/", authorization: basic(...pair) })]) {
        const expected = await told(door(first));
        for (const pair of others) assert.deepEqual(await told(door(pair)), expected);
      }
      return [];
    },
  },
  {
    name: "an access token does not prolong itself, as Bearer, as password, or as refresh token",
    send: [
      { path: "/v2/token", authorization: bearer(right.token) },
      ask({ scope: SCOPE }, [CI[0], right.token]),
      post({ grant_type: "refresh_token", refresh_token: right.token, scope: SCOPE }),
    ],
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "a refresh token is accepted at the token endpoint only",
    send: [bearer(right.refresh_token), basic(CI[0], right.refresh_token)].map((authorization) => ({ path: "/v2/", authorization })),
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "a refresh token under another account's name is still its own account's",
    send: ask({ scope: "repository:private/app:pull,push repository:team/app:pull" }, [ANN[0], right.refresh_token]),
    answer: "200",
    check: ({ body }) =>
      assert.deepEqual(actionsOf(JSON.parse(body)), [
        ["private/app", []],
        ["team/app", ["pull"]],
      ]),
  },
  {
    name: "refresh tokens with another subject, another binding, another key or no signature",
    send: () => {
      const claims = decode(right.refresh_token);
      const forged = [{ sub: ANN[0] }, { binding: "0".repeat(64) }, { issuer: "https://ci.example", permissions: [{ "**": ["push"] }] }];
      return [
        ...forged.map((more) => withSegment(right.refresh_token, 1, { ...claims, ...more })),
        ...["", "registry", CI[1], operator.pem()].map((secret) => hmacToken(secret, { ...claims, sub: ANN[0] })),
        withSegment(withSegment(right.refresh_token, 0, { alg: "none" }), 2, ""),
        operator.token(claims),
      ].map((token) => post({ grant_type: "refresh_token", refresh_token: token, scope: SCOPE }));
    },
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "anonymous clients get no refresh token, and only public pull access",
    send: ask({ scope: `repository:public/app:* ${SCOPE} registry:catalog:*`, offline_token: "true" }),
    answer: "200",
    check({ body }) {
      const answer = JSON.parse(body);
      assert.equal(answer.refresh_token, undefined);
      assert.deepEqual(actionsOf(answer), [
        ["public/app", ["pull"]],
        ["team/app", []],
      ]);
    },
  },
]);

registry.attacks("access tokens", [
  {
    name: "with more access, a later expiry or another subject, and the old signature",
    send: () => {
      const claims = decode(right.token);
      const access = [{ type: "repository", name: "team/app", actions: ["push", "delete"] }];
      const changes = [{ access }, { exp: now() + 99_999 }, { sub: ANN[0] }, { denied: [], listing: [{ "**": ["pull"] }] }];
      return changes.map((more) => push("team/app", withSegment(right.token, 1, { ...claims, ...more })));
    },
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "with another key, unsigned, signed by the operator's key, of the other kind",
    send: () => {
      const claims = decode(right.token);
      return [
        ...["", "k".repeat(32), "r2-registry", operator.pem()].map((secret) => hmacToken(secret, claims)),
        withSegment(withSegment(right.token, 0, { alg: "none", typ: "JWT" }), 2, ""),
        withSegment(right.token, 2, ""),
        right.token.slice(0, -2),
        operator.token(claims),
        operator.token({ ...claims, capabilities: ["push"], exp: soon() }),
        operator.token(claims, { alg: "HS256" }),
        right.refresh_token,
      ].map((token) => push("team/app", token));
    },
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "for one repository, used in another, for the catalog, and to delete",
    send: [
      push("team/other", right.token),
      push("public/app", right.token),
      ...requests(bearer(right.token), ["GET /v2/_catalog", "DELETE /v2/team/app/manifests/1"]),
    ],
    answer: "401 UNAUTHORIZED",
    check: ({ headers }) => assert.match(headers.get("www-authenticate"), /error="insufficient_scope"/),
  },
  {
    name: "with any scope, they neither migrate nor show retention's plan",
    send: requests(bearer(right.token), ["POST /v2/_migrate", "GET /v2/_retention"]),
    answer: "403 DENIED",
  },
  {
    name: "an anonymous token pushes, deletes, lists, and reads private images",
    send: [
      push("public/app", anonymous.token),
      push("team/app", anonymous.token),
      ...requests(bearer(anonymous.token), [
        "DELETE /v2/public/app/manifests/1",
        "GET /v2/team/app/manifests/1",
        "GET /v2/_catalog",
        "POST /v2/_migrate",
        "POST /v2/public/app/gc",
      ]),
    ],
    answer: "401 UNAUTHORIZED",
  },
]);

const scopes = (count) => Array.from({ length: count }, (_, index) => `repository:team/${index}:*`).join(" ");

registry.attacks(
  "scopes and forms",
  [
    {
      name: "scopes beyond the account are cut, and pushing with the token is denied",
      send: async () => {
        const answer = await get(ask({ scope: "repository:private/app:*" }, CI));
        assert.deepEqual(actionsOf(answer), [["private/app", []]]);
        return [push("private/app", answer.token)];
      },
      answer: "403 DENIED",
    },
    {
      name: "scopes with globs, paths, other types and other words grant nothing",
      send: () =>
        [
          "repository:**:*",
          "repository:team/**:pull,push",
          "repository:team/../private/app:push",
          "repository:*:*",
          "repository::*",
          "registry:*:*",
          "*:*:*",
          "repository(x):private/app:push",
          "repository:team/app:push:private/app",
          "repository:team/app:PUSH,write,admin",
        ].map((scope) => ask({ scope }, CI)),
      answer: "200",
      check: ({ body }) =>
        assert.deepEqual(
          actionsOf(JSON.parse(body)).flatMap(([, actions]) => actions),
          [],
        ),
    },
    {
      name: "a token gets at most fifty of a thousand scopes",
      send: [ask({ scope: scopes(300) }, CI), post({ grant_type: "password", username: CI[0], password: CI[1], scope: scopes(1000) })],
      answer: "200",
      check: ({ body }) => assert.ok(actionsOf(JSON.parse(body)).length <= 50),
    },
    {
      name: "quotes and line ends in scope, service, account and client",
      send: ["scope", "service", "account", "client_id"].map((name) => ask({ [name]: 'x"\r\nX-Evil: 1\r\n\r\n<script>' }, CI)),
      answer: "200",
      check({ headers, body }) {
        assert.equal(headers.get("x-evil"), null);
        assert.ok(!String(body).includes("<script>"));
      },
    },
    {
      name: "duplicate fields, unknown grants, grants without their field, malformed forms",
      send: () => [
        post([
          ["grant_type", "password"],
          ["grant_type", "refresh_token"],
          ["username", CI[0]],
          ["password", CI[1]],
        ]),
        post([
          ["grant_type", "password"],
          ["username", CI[0]],
          ["password", CI[1]],
          ["password", "other"],
        ]),
        ...["", "authorization_code", "client_credentials", "implicit", "PASSWORD"].map((grant_type) =>
          post({ grant_type, username: CI[0], password: CI[1] }),
        ),
        post({ grant_type: "refresh_token", password: CI[1] }),
        ...["", "{}", JSON.stringify({ grant_type: "password" }), Buffer.from([0xff, 0xfe]), "grant_type=%ff&%ff=%fe"].map((body) => ({
          method: "POST",
          path: "/v2/token",
          body,
        })),
      ],
      answer: "400 UNSUPPORTED",
    },
    {
      name: "a form of more than 32 KiB, with a length and without",
      send: () => {
        const form = Buffer.from(`grant_type=password&username=ci&password=${"x".repeat(40_000)}`);
        return [form, new Blob([form]).stream()].map((body) => ({ method: "POST", path: "/v2/token", body }));
      },
      answer: "400 UNSUPPORTED",
    },
  ],
  [CI[1], ANN[1], right.token, right.refresh_token, anonymous.token, right.token.split(".")[2], base64(CI.join(":"))],
);
