// Attacks by paths and names: accounts of one team try to reach another team's images, and keys of the bucket that
// belong to no repository. tests/unit/access/test_matrix.py covers every endpoint with every permission,
// tests/unit/access/test_permissions.py the globs.
import assert from "node:assert/strict";

import { account, ADMIN, basic, digestOf, imageOf, MANIFEST, requests, startRegistry } from "./support.mjs";

const PERMISSIONS = {
  ci: { "team/**": ["pull", "push"], "team/base": ["pull"], "team/secret": [], "t*/single": ["push"] },
  pusher: { "team/app": ["push"] },
  reader: { "team/**": ["pull"] },
  owner: { "team/**": ["pull", "push", "delete"] },
  nearly: { "**": ["pull", "push", "delete"], "private/**": [] },
};
const secretOf = (name) => `the secret of ${name}`;
const [CI, PUSHER, READER, OWNER, NEARLY] = Object.keys(PERMISSIONS).map((name) => basic(name, secretOf(name)));

const registry = await startRegistry({
  ACCOUNTS_JSON: JSON.stringify(Object.entries(PERMISSIONS).map(([name, permissions]) => account(name, secretOf(name), permissions))),
  PROMETHEUS: "true",
});

// Images that the team may not reach, and one of its own.
const hidden = await registry.pushImage("private/app", "a private layer");
await registry.pushImage("team/secret", "a private layer");
const own = await registry.pushImage("team/app", "the team's layer");
const [HIDDEN, OWN, ABSENT] = [hidden.manifest, own.manifest, "of nothing"].map(digestOf);
const [LAYER, OWN_LAYER] = [hidden, own].map(({ blobs }) => digestOf(blobs[1]));

// A raw request, since fetch would resolve the dots.
const raw = (line, authorization) => `${line} HTTP/1.1\r\n${authorization ? `Authorization: ${authorization}\r\n` : ""}\r\n`;
const manifestsOf = (names) => names.map((name) => `GET /v2/${name}/manifests/1`);
const image = (body) => ({ body, headers: { "content-type": MANIFEST } });
const isHidden = ({ body }) => assert.ok(!body.includes("a private layer"));

registry.attacks("paths", [
  {
    name: "no attack: the hidden images exist",
    send: requests(ADMIN, ["GET /v2/private/app/manifests/1", `GET /v2/private/app/blobs/${LAYER}`]),
    answer: "200",
  },
  {
    name: "dots that lead from one's own repository to another",
    send: manifestsOf([
      "team/../private/app",
      "team/app/../../private/app",
      "team/%2e%2e/private/app",
      "team/.%2E/private/app",
      "./private/./app",
    ]).map((line) => raw(line, CI)),
    answer: "403 DENIED",
  },
  {
    name: "dots that lead out of the API or above the root",
    send: ["/v2/../private/app/manifests/1", "/v2/%2e%2e/%2e%2e/etc/passwd", "/../../../etc/passwd", "/v2/team/../../_registry/session-secret"].map(
      (path) => raw(`GET ${path}`, CI),
    ),
    answer: "404 UNSUPPORTED",
  },
  {
    name: "encoded slashes and backslashes, dots that are encoded twice",
    send: manifestsOf([
      "team%2F..%2Fprivate%2Fapp",
      "team/%2e%2e%2fprivate/app",
      "team/%252e%252e/private/app",
      "team/..%5cprivate/app",
      "team%5c..%5cprivate/app",
      "%2fprivate/app",
    ]).map((line) => raw(line, CI)),
    answer: "400 NAME_INVALID",
  },
  {
    name: "backslashes, which browsers take for slashes",
    send: ["/v2/team\\..\\private\\app/manifests/1", "/v2\\private\\app\\manifests\\1"].map((path) => raw(`GET ${path}`, CI)),
    answer: "403 DENIED",
  },
  {
    name: "NUL, line ends, spaces and control characters in a name",
    send: requests(
      ADMIN,
      manifestsOf(["app%00", "app%00/x", "app%0a", "%0d%0aapp", "app%20", "%09app", "app%7f", "app%1b"].map((name) => `private/${name}`)),
    ),
    answer: "400 NAME_INVALID",
  },
  {
    name: "invalid UTF-8: overlong dots and slashes, lone surrogates",
    send: requests(
      CI,
      manifestsOf(["%ff", "team/%c0%ae%c0%ae/private", "team%c0%afapp", "team/%e0%80%ae", "team/%ed%a0%80", "team/%f8%80%80%80%ae"]),
    ),
    answer: "400 UNSUPPORTED",
  },
  {
    name: "names that look like others: capitals, full-width dots, letters of other alphabets",
    send: requests(
      ADMIN,
      manifestsOf(["Private/app", "private/APP", "a/\uff0e\uff0e/b", "priv\u0430te/app", "private\u2215app", "app\u200b", "i\u0301"].map(encodeURI)),
    ),
    answer: "400 NAME_INVALID",
  },
  {
    name: "names that the specification does not allow",
    send: [
      "",
      "/",
      "a//b",
      "a/",
      "/a",
      "-a",
      "a-",
      ".a",
      "a..b",
      "a___b",
      "a._b",
      "a:b",
      "a@b",
      "~a",
      "*",
      "**",
      "a".repeat(256),
      "a/".repeat(200),
    ].map((name) => raw(`GET /v2/${name}/manifests/1`, ADMIN)),
    answer: "400 NAME_INVALID",
  },
  {
    name: "keys of the bucket that belong to no repository",
    send: ["_", "_registry", "_data", "_refs", "_registry/gc", "team/app/_referrers", "team/app/_gc"].flatMap((name) =>
      requests(ADMIN, [`GET /v2/${name}/manifests/session-secret`, `DELETE /v2/${name}/manifests/session-secret`, `GET /v2/${name}/blobs/${ABSENT}`]),
    ),
    answer: "400 NAME_INVALID",
  },
  {
    name: "tags that are paths, too long or empty",
    send: requests(
      CI,
      ["..%2fprivate", "..%2f..%2f_registry%2fsession-secret", "-x", ".x", "%00", "a%0ab", "a".repeat(129), "a%20b", "caf%C3%A9"].map(
        (tag) => `PUT /v2/team/app/manifests/${tag}`,
      ),
      image(own.manifest),
    ),
    answer: "400 MANIFEST_INVALID",
  },
  {
    name: "digests that are paths, of other algorithms, in capitals, too short or too long",
    send: requests(
      CI,
      ["sha256:..%2fx", `sha256:${"A".repeat(64)}`, LAYER.toUpperCase(), "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:", `a:${LAYER}`]
        .concat([`${LAYER}0`, LAYER.slice(0, -1), `${LAYER}%00`, `sha512:${"a".repeat(64)}`])
        .flatMap((digest) => [`GET /v2/team/app/blobs/${digest}`, `GET /v2/team/app/referrers/${digest}`]),
    ),
    answer: "400 DIGEST_INVALID",
  },
  {
    name: "other spellings of the API: anonymous clients do not learn which paths exist",
    send: ["//v2/private/app/manifests/1", "/V2/", "/v2;x/", "/v2//private/app/manifests/1", "/v2/private/app/manifests/1/", "/v1/repositories"]
      .concat(["/v2/private/app/manifests/1;x", "/v2/private/app/manifests/1%2f", "/.git/config", "/metrics"])
      .map((path) => raw(`GET ${path}`)),
    answer: "401 UNAUTHORIZED",
  },
  {
    name: "methods that a path does not have",
    send: ["TRACE", "OPTIONS", "PATCH", "POST", "PROPFIND", "COPY", "MOVE", "LOCK"].map((method) => raw(`${method} /v2/private/app/manifests/1`, CI)),
    answer: "405 UNSUPPORTED",
  },
  {
    name: "duplicate parameters, which two parsers read differently",
    send: requests(CI, [
      `POST /v2/team/app/blobs/uploads/?mount=${LAYER}&mount=${ABSENT}&from=private/app`,
      `POST /v2/team/app/blobs/uploads/?mount=${LAYER}&from=team/app&from=private/app`,
      `POST /v2/team/app/blobs/uploads/?digest=${ABSENT}&digest=${LAYER}`,
      "GET /v2/team/app/tags/list?n=1&n=2",
      "GET /v2/_catalog?last=a&last=b",
    ]),
    answer: "400 UNSUPPORTED",
  },
  {
    name: "numbers that are malformed, negative, in other digits, or of thousands of digits",
    send: requests(
      CI,
      [..."-1 1e9 0x1 %D9%A1 +1 1_0".split(" "), "9".repeat(5000)].map((count) => `GET /v2/team/app/tags/list?n=${count}`),
    ),
    answer: "400 UNSUPPORTED",
  },
]);

// Starts an upload session in the team's repository; returns its location.
const startUpload = async () => {
  const [request] = requests(CI, ["POST /v2/team/app/blobs/uploads/"]);
  return (await registry.send(request)).headers.get("location");
};

registry.attacks(
  "permissions",
  [
    {
      name: "repositories with names similar to those that a glob matches",
      send: requests(
        CI,
        ["team", "teams/app", "xteam/app", "team-x/app", "team_x/app", "private/team/app", "t/x/single", "private/single"].map(
          (name) => `POST /v2/${name}/blobs/uploads/`,
        ),
      ),
      answer: "403 DENIED",
    },
    {
      name: "a more specific rule removes permissions of a wider one",
      send: [...requests(CI, ["POST /v2/team/base/blobs/uploads/"]), ...requests(CI, ["PUT /v2/team/base/manifests/1"], image(own.manifest))],
      answer: "403 DENIED",
    },
    {
      name: "a push-only account reads",
      send: requests(PUSHER, [
        "GET /v2/team/app/manifests/1",
        `GET /v2/team/app/blobs/${OWN_LAYER}`,
        "GET /v2/team/app/tags/list",
        `GET /v2/team/app/referrers/${OWN}`,
        "GET /v2/_catalog",
      ]),
      answer: "403 DENIED",
    },
    {
      name: "a pull-only account pushes, deletes and collects garbage",
      send: requests(READER, [
        "POST /v2/team/app/blobs/uploads/",
        `POST /v2/team/app/blobs/uploads/?digest=${ABSENT}`,
        `POST /v2/team/app/blobs/uploads/?mount=${OWN_LAYER}&from=team/app`,
        "PATCH /v2/team/app/blobs/uploads/x",
        `PUT /v2/team/app/blobs/uploads/x?digest=${ABSENT}`,
        "DELETE /v2/team/app/blobs/uploads/x",
        "PUT /v2/team/app/manifests/2",
        "DELETE /v2/team/app/manifests/1",
        `DELETE /v2/team/app/blobs/${OWN_LAYER}`,
        "POST /v2/team/app/gc?dry_run=true",
        "GET /v2/team/app/gc?mode=verify",
      ]),
      answer: "403 DENIED",
    },
    {
      name: "an account that may pull and push deletes and collects garbage",
      send: requests(CI, [
        "DELETE /v2/team/app/manifests/1",
        `DELETE /v2/team/app/manifests/${OWN}`,
        `DELETE /v2/team/app/blobs/${OWN_LAYER}`,
        "POST /v2/team/app/gc?grace=0&mode=untagged",
        "GET /v2/team/app/gc?mode=verify",
      ]),
      answer: "403 DENIED",
    },
    {
      name: "an account with all permissions in some repositories calls endpoints for the whole bucket",
      send: [NEARLY, OWNER].flatMap((authorization) => requests(authorization, ["POST /v2/_migrate", "GET /v2/_retention", "GET /metrics"])),
      answer: "403 DENIED",
    },
    {
      name: "every endpoint of another team's repository",
      send: requests(
        OWNER,
        ["GET tags/list", `GET referrers/${HIDDEN}`, "POST gc", "GET gc?mode=verify", "POST blobs/uploads/"]
          .concat(["GET", "HEAD", "PUT", "DELETE"].map((method) => `${method} manifests/1`))
          .concat(["GET", "HEAD", "DELETE"].map((method) => `${method} blobs/${LAYER}`))
          .concat(["GET", "PATCH", "PUT", "DELETE"].map((method) => `${method} blobs/uploads/x?digest=${LAYER}`))
          .map((line) => line.replace(" ", " /v2/private/app/")),
      ),
      answer: "403 DENIED",
      check: isHidden,
    },
    {
      name: "a mount from a repository without the pull permission is an upload, whether the blob exists or not",
      send: requests(
        CI,
        [LAYER, ABSENT].flatMap((digest) =>
          ["private/app", "private/nothing"].map((from) => `POST /v2/team/app/blobs/uploads/?mount=${digest}&from=${from}`),
        ),
      ),
      answer: "202",
    },
    {
      name: "another team's layer by its digest, through the own repository",
      send: requests(OWNER, [`GET /v2/team/app/blobs/${LAYER}`, `HEAD /v2/team/app/blobs/${LAYER}`, `DELETE /v2/team/app/blobs/${LAYER}`]),
      answer: "404 BLOB_UNKNOWN",
      check: isHidden,
    },
    {
      name: "another team's manifest by its digest, through the own repository",
      send: requests(OWNER, [
        `GET /v2/team/app/manifests/${HIDDEN}`,
        `HEAD /v2/team/app/manifests/${HIDDEN}`,
        `DELETE /v2/team/app/manifests/${HIDDEN}`,
      ]),
      answer: "404 MANIFEST_UNKNOWN",
      check: isHidden,
    },
    {
      name: "an own image with another team's layers",
      send: requests(CI, ["PUT /v2/team/taken/manifests/1"], image(imageOf(...hidden.blobs))),
      answer: "404 MANIFEST_BLOB_UNKNOWN",
    },
    {
      name: "an upload session that belongs to another repository, is changed, invented, or a path",
      send: async () => {
        const path = await startUpload();
        const [uuid, issued, mac] = path.split("/").at(-1).split(".");
        const forged = [`${uuid}.${issued}.${"0".repeat(32)}`, `${uuid}.ffffffff.${mac}`, `${uuid}.0.${mac}`, `${uuid}.${issued}`, uuid];
        const sessions = [...forged, "..%2f..%2f_registry", "%00", "x".repeat(3000)].map((session) => `/v2/team/app/blobs/uploads/${session}`);
        return [path.replace("team/app", "team/other"), ...sessions].flatMap((target) => [
          ...requests(CI, [`GET ${target}`, `DELETE ${target}`]),
          ...requests(CI, [`PATCH ${target}`, `PUT ${target}?digest=${digestOf("x")}`], { body: "x" }),
        ]);
      },
      answer: "404 BLOB_UPLOAD_UNKNOWN",
    },
    {
      name: "an invalid position in a session's log: in other digits, far behind the end",
      send: async () => {
        const path = await startUpload();
        const none = requests(
          CI,
          ["-1", "1e3", "%D9%A1", "0x10", "9".repeat(400)].map((entry) => `GET ${path}?entry=${entry}`),
        );
        return [...none, ...requests(CI, [`GET ${path}?entry=999999999999999`], { answer: "204" })];
      },
      answer: "400 UNSUPPORTED",
    },
    {
      name: "the catalog hides repositories without the pull permission, from any start",
      send: requests(
        CI,
        ["", "last=private", "last=private/", "last=private/aaa", "n=1", "last=other", "last=%2e%2e", "last=_registry"].map(
          (query) => `GET /v2/_catalog?${query}`,
        ),
      ),
      answer: "200",
      check({ headers, body }) {
        const { repositories } = JSON.parse(body);
        assert.ok(
          repositories.every((name) => /^team\/(?!secret)/.test(name)),
          repositories.join(),
        );
        assert.doesNotMatch(headers.get("link") ?? "", /private|other|secret/);
      },
    },
    {
      name: "a forged catalog cursor",
      send: requests(
        CI,
        ["~", "~00", `~${"00".repeat(40)}`, "~zz", `~${"ab".repeat(2000)}`].map((last) => `GET /v2/_catalog?last=${last}`),
      ),
      answer: "400 UNSUPPORTED",
    },
    {
      name: "garbage collection: malformed modes and grace periods",
      send: requests(
        OWNER,
        ["mode=all", "mode=", "mode=untagged&mode=unreferenced", "grace=-1", "grace=1e9", `grace=${"9".repeat(50)}`, "dry_run=1"]
          .map((query) => `POST /v2/team/app/gc?${query}`),
      ),
      answer: "400 UNSUPPORTED",
    },
    {
      name: "no attack: all images are unchanged afterwards",
      send: requests(ADMIN, [
        ...["1", HIDDEN].map((reference) => `GET /v2/private/app/manifests/${reference}`),
        ...hidden.blobs.map((blob) => `GET /v2/private/app/blobs/${digestOf(blob)}`),
        ...["1", OWN].map((reference) => `GET /v2/team/app/manifests/${reference}`),
        ...own.blobs.map((blob) => `GET /v2/team/app/blobs/${digestOf(blob)}`),
      ]),
      answer: "200",
    },
  ],
  Object.keys(PERMISSIONS).map(secretOf),
);
