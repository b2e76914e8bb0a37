// Attacks with JSON Web Tokens (RFC 7519, RFC 8725) on a registry that has two public keys and requires an audience.
// tests/unit/access/test_signed_tokens.py covers every algorithm and key format on fakes.
import assert from "node:assert/strict";

import { base64, basic, bearer, now, requests, startRegistry, startServer } from "./support.mjs";
import { encode, hmacToken, Key, soon, withSegment } from "./tokens.mjs";

const AUDIENCE = "https://registry.example";

const operator = new Key("ES256", "operator");
const second = new Key("RS256", "second");
// The registry does not have this key, although it has the operator's `kid`.
const attacker = new Key("ES256", "operator");
const evil = await startServer((request, response) => response.end(JSON.stringify({ keys: [attacker.jwk()] })));

const registry = await startRegistry({
  JWT_REGISTRY_TOKENS_PUBLIC_KEY: base64(JSON.stringify({ keys: [operator.jwk(), second.jwk()] })),
  JWT_REGISTRY_TOKENS_AUDIENCE: AUDIENCE,
});

const claims = (more = {}) => ({ username: "ci", capabilities: ["pull", "push"], aud: AUDIENCE, exp: soon(), ...more });
// Tokens with a valid signature of the operator; an undefined claim is left out.
const token = (more, header) => operator.token(claims(more), header);
const tokens = (name, values) => values.map((value) => token({ [name]: value }));
// A token with a claim as raw text, for values that JSON.stringify does not write.
const withText = (name, text) => operator.token(JSON.stringify(claims({ [name]: "HERE" })).replace('"HERE"', text));

// Sends each token as a Bearer token and as a password.
const bothWays = (texts) =>
  [texts].flat().flatMap((text) => [bearer(text), basic("anything", text)].map((authorization) => ({ path: "/v2/", authorization })));
const refused = (name, make) => ({ name, send: () => bothWays(make()), answer: "401 UNAUTHORIZED" });

registry.attacks("claims", [
  { name: "no attack: the unchanged tokens are accepted", send: () => bothWays([token(), second.token(claims())]), answer: "200" },
  refused("exp: expired by more than the tolerance for clocks", () => tokens("exp", [now() - 31, 0, -1])),
  refused("exp: missing", () => tokens("exp", [undefined, null])),
  refused("exp: not a number", () => tokens("exp", ["never", "", [], {}, true, false])),
  refused("exp: infinite or NaN", () => ["Infinity", "-Infinity", "NaN", "1e999", "-1e999"].map((text) => withText("exp", text))),
  refused("nbf: not valid yet", () => tokens("nbf", [now() + 3600, "later"])),
  refused("nbf and iat: infinite or NaN", () =>
    ["nbf", "iat"].flatMap((name) => ["Infinity", "NaN", "1e999"].map((text) => withText(name, text))),
  ),
  refused("iat: issued in the future", () => tokens("iat", [now() + 3600, "yesterday"])),
  refused("aud: another registry", () => tokens("aud", ["https://other.example", ["a", "b"], `${AUDIENCE}/`, "https://registry"])),
  refused("aud: missing or not a name", () =>
    tokens("aud", [undefined, null, [], "", 5, {}, [5], [[AUDIENCE]], { [AUDIENCE]: true }]),
  ),
  refused("sub: not a text", () => tokens("sub", [5, ["ci"]])),
  refused("duplicate claims, which two parsers read differently", () => {
    const text = JSON.stringify(claims());
    return [
      `{"capabilities":["pull"],${text.slice(1)}`,
      `${text.slice(0, -1)},"exp":${soon() + 9999}}`,
      `${text.slice(0, -1)},"access":[{"type":"repository","name":"a","name":"b","actions":["pull"]}]}`,
    ].map((payload) => operator.token(payload));
  }),
  refused("duplicate members of the header, which two parsers read differently", () =>
    ['{"alg":"none","alg":"ES256","kid":"operator"}', '{"alg":"ES256","kid":"second","kid":"operator"}'].map((header) =>
      operator.token(claims(), header),
    ),
  ),
  refused("claims that are not an object", () => ['"text"', "[]", "5", "null", "true", ""].map((payload) => operator.token(payload))),
]);

const withAccess = (...entries) => entries.map((access) => token({ access }));
const inRepository = (name, ...actions) => ({ type: "repository", name, actions });

registry.attacks("capabilities", [
  refused("unknown capabilities", () => tokens("capabilities", [["admin"], ["pull", "admin"], ["*"], ["PULL"], [""], [null], [["push"]], [1]])),
  refused("capabilities that are not a list", () => tokens("capabilities", ["push", { push: true }, true, 7])),
  refused("neither capabilities nor access", () => token({ capabilities: undefined })),
  refused("access that is not a list of repositories", () =>
    withAccess("**", {}, ["repository:a:pull"], [inRepository("../a", "pull")], [{ ...inRepository("a"), actions: "*" }], [inRepository(["a"], "*")]),
  ),
  { name: "a valid token without permissions", send: () => bothWays([token({ capabilities: [] }), ...withAccess([])]), answer: "403 DENIED" },
  {
    name: "access to another repository, or to pull, does not permit to push here, with any capabilities",
    send: () =>
      withAccess(
        [inRepository("team/*", "*")],
        [{ ...inRepository("private/app", "*"), type: "registry" }],
        [inRepository("private/app", "pull")],
      ).map((text) => ({ method: "POST", path: "/v2/private/app/blobs/uploads/", authorization: bearer(text) })),
    answer: "403 DENIED",
  },
  {
    name: "a pull token pushes, deletes, collects garbage and migrates",
    send: () =>
      requests(bearer(token({ capabilities: ["pull"] })), [
        "POST /v2/a/blobs/uploads/",
        "PUT /v2/a/manifests/1",
        "DELETE /v2/a/manifests/1",
        "POST /v2/a/gc",
        "POST /v2/_migrate",
      ]),
    answer: "403 DENIED",
  },
  {
    name: "a user name that would inject a log line",
    send: () => ({ path: "/v2/", authorization: bearer(token({ username: 'x"}\r\n{"event":"forged"}\n' })) }),
    answer: "200",
    async check(answer) {
      assert.equal((await registry.log.linesOf([answer])).length, 1);
      assert.ok(!registry.log.lines.some((line) => /^\{"event":"forged"/m.test(line)));
    },
  },
]);

registry.attacks("algorithms", [
  refused("alg none in any letter case, without a signature and with that of another token", () =>
    ["none", "None", "NONE", "nOnE"].flatMap((alg) => [withSegment(token({}, { alg }), 2, ""), withSegment(token(), 0, { alg, kid: "operator" })]),
  ),
  refused("HS256 with the public key, in any format, as the secret", () =>
    [operator.pem(), operator.pem().trim(), operator.der(), JSON.stringify(operator.jwk()), base64(JSON.stringify(operator.jwk())), operator.jwk().x]
      .concat([second.pem(), second.jwk().n, ""])
      .flatMap((secret) => [{}, { kid: "operator" }, { kid: "second" }].map((header) => hmacToken(secret, claims(), header))),
  ),
  refused("a signature by another algorithm than that of the named key", () => [
    new Key("ES384", "operator").token(claims(), { alg: "ES256" }),
    new Key("ES384", "operator").token(claims()),
    second.token(claims(), { kid: "operator" }),
    token({}, { kid: "second" }),
  ]),
  refused("the attacker's key with the operator's kid", () => [attacker.token(claims()), new Key("RS256", "second").token(claims())]),
]);

registry.attacks("headers", [
  refused("kid: missing, although there are several keys", () => [undefined, null, ""].map((kid) => token({}, { kid }))),
  refused("kid: a path, a query, a command, a NUL, a similar name", () =>
    [
      "../../../dev/null",
      "/etc/passwd",
      "_registry/session-secret",
      "' OR '1'='1",
      "x' UNION SELECT 'y",
      "| sleep 10",
      "operator\0",
      "operator ",
      "Operator",
    ].map((kid) => token({}, { kid })),
  ),
  refused("kid: not a text", () => [["operator"], { operator: 1 }, 0, true].map((kid) => token({}, { kid }))),
  refused("jwk: the attacker's key in the header", () =>
    [{}, { kid: undefined }].map((more) => attacker.token(claims(), { jwk: attacker.jwk(), ...more })),
  ),
  refused("jku, x5u, x5c, kid: the attacker's key elsewhere", () =>
    [{ jku: `${evil.url}/jwks` }, { x5u: `${evil.url}/cert` }, { x5c: ["MII"] }, { kid: `${evil.url}/kid` }].map((header) =>
      attacker.token(claims(), header),
    ),
  ),
  {
    name: "jku, x5u: a valid token names them; the registry never requests them",
    send: () => bothWays(token({}, { jku: `${evil.url}/jwks`, x5u: `${evil.url}/cert` })),
    answer: "200",
    check: () => assert.deepEqual(evil.asked, []),
  },
  refused("crit: an unknown extension (RFC 7515, 4.1.11)", () =>
    [{ crit: ["exp"], exp: 1 }, { crit: ["x"], x: 1 }, { crit: [] }, { crit: "exp" }].map((header) => token({}, header)),
  ),
  refused("b64: an unencoded payload (RFC 7797)", () => {
    const header = { alg: "ES256", kid: "operator", b64: false, crit: ["b64"] };
    const text = `${encode(header)}.${JSON.stringify(claims())}`;
    return [token({}, header), `${text}.${encode(operator.signature(text))}`];
  }),
]);

// An ECDSA signature on P-256, given as the hex digits of its two numbers.
const [ZERO, ONE, ORDER, MOST] = [
  "0".repeat(64),
  "1".padStart(64, "0"),
  "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
  "f".repeat(64),
];
const signatureOf = (text) => Buffer.from(text.split(".")[2], "base64url");
// Valid tokens of both keys, with their signatures changed by `make`.
const withSignatures = (make) =>
  [token(), second.token(claims())].flatMap((text) => make(signatureOf(text)).map((bytes) => withSegment(text, 2, bytes)));

registry.attacks("signatures", [
  refused("of zeros (CVE-2022-21449), of ones, of the curve's order", () => [
    ...[ZERO + ZERO, ZERO + ONE, ONE + ZERO, ORDER + ORDER, ORDER + ONE, MOST + MOST].map((hex) => withSegment(token(), 2, Buffer.from(hex, "hex"))),
    ...withSignatures((right) => [0, 255].map((byte) => Buffer.alloc(right.length, byte))),
  ]),
  refused("in DER, as other protocols write them", () => {
    const signed = token().split(".").slice(0, 2).join(".");
    return `${signed}.${encode(operator.signature(signed, { dsaEncoding: "der" }))}`;
  }),
  refused("missing, cut and lengthened", () =>
    withSignatures((right) => [
      Buffer.alloc(0),
      right.subarray(1),
      right.subarray(0, -1),
      right.subarray(0, right.length / 2),
      Buffer.concat([right, Buffer.alloc(1)]),
      Buffer.concat([Buffer.alloc(1), right]),
    ]),
  ),
  refused("with one bit changed", () =>
    withSignatures((right) => [0, right.length - 1].map((at) => Buffer.from(right.map((byte, index) => (index === at ? byte ^ 1 : byte))))),
  ),
  refused("of another token with the same key", () =>
    [{ capabilities: ["pull"] }, { exp: now() - 3600 }, { aud: "https://other.example" }].map((more) => withSegment(token(more), 1, claims())),
  ),
  refused("in the JSON serialization, of a nested token, of an encrypted token", () => {
    const [head, payload, signature] = token().split(".");
    return [JSON.stringify({ payload, protected: head, signature }), operator.token(token(), { cty: "JWT" }), `${token()}.${head}.${signature}`];
  }),
]);

registry.attacks("sizes", [
  refused("a valid token of more than 12 KiB", () => ["x".repeat(9400)].flatMap((padding) => [token({ padding }), token({}, { padding })])),
  refused("very long segments", () => [`${"a".repeat(12_000)}.${"b".repeat(100)}.c`, "x.".repeat(5_000), ".".repeat(12_000), "A".repeat(12_000)]),
  refused("an Authorization header of 17 to 60 KiB", () => [17, 30, 60].map((kib) => "A".repeat(kib * 1024))),
  refused("no, too many, empty and non-base64 segments", () => [
    "",
    ".",
    "..",
    "...",
    "a.b",
    "a.b.c.d",
    `${encode("{}")}..`,
    "\u00e9.x.x",
    "!.!.!",
    "=.=.=",
  ]),
  refused("segments that are not JSON or not UTF-8", () =>
    ["{", "nul", "{]", Buffer.from([0xff, 0xfe, 0x7b]), Buffer.from('{"a":"\xed\xa0\x80"}', "latin1")].flatMap((bytes) => [
      withSegment(token(), 0, bytes),
      operator.token(bytes),
    ]),
  ),
  refused("a valid token with characters before, after or within it", () => [
    `x${token()}`,
    `${token()}x.`,
    `${token()} ${token()}`,
    token().replace(".", ".\t"),
    `${token()}=.`,
    token().replace(".", "=."),
  ]),
]);
