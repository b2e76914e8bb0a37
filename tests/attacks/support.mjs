// Shared by the attacks: a registry in real workerd for each file, tables of attacks, and an honest client.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import net from "node:net";
import { dirname, resolve } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { startLocal } from "../../runtime/local.mjs";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
// The account of the honest client, with every permission.
const OTHER = { name: "other-client", secret: "that nobody attacks" };

export const now = () => Math.floor(Date.now() / 1000);
export const sha256 = (data) => createHash("sha256").update(data).digest("hex");
export const digestOf = (data) => `sha256:${sha256(data)}`;
export const base64 = (value) => Buffer.from(value).toString("base64");
export const basic = (name, secret) => `Basic ${base64(`${name}:${secret}`)}`;
export const bearer = (token) => `Bearer ${token}`;
// An account for ACCOUNTS_JSON with a generated token.
export const account = (name, secret, permissions) => ({ name, secret: `sha256:${sha256(secret)}`, permissions });

export const ADMIN = basic(OTHER.name, OTHER.secret);
// An image manifest with a config and a layer.
export const imageOf = (config, layer) => {
  const describe = (data, mediaType) => ({ mediaType, digest: digestOf(data), size: data.length });
  return JSON.stringify({
    schemaVersion: 2,
    mediaType: MANIFEST,
    config: describe(config, "application/vnd.oci.image.config.v1+json"),
    layers: [describe(layer, "application/vnd.oci.image.layer.v1.tar")],
  });
};

// Requests from lines such as "GET /v2/"; `more` are members of all of them.
export const requests = (authorization, lines, more = {}) =>
  lines.map((line) => {
    const [method, path] = line.split(" ");
    return { method, path, authorization, ...more };
  });

// Starts a registry. `vars` are its settings in addition to the account of the honest client.
export async function startRegistry(vars) {
  const log = new Log();
  const local = await startLocal({
    root: ROOT,
    vars: { USERNAME: OTHER.name, PASSWORD: OTHER.secret, ...vars },
    onLog: ({ message }) => log.add(message),
  });
  after(() => local.dispose());
  return new Registry(local, log);
}

// Starts a server on loopback, for an attacker, an issuer or an upstream. `asked` lists the requested paths.
export async function startServer(answer) {
  const asked = [];
  const server = createServer((request, response) => {
    asked.push(request.url);
    answer(request, response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  after(() => server.close() && server.closeAllConnections());
  return { url: `http://127.0.0.1:${server.address().port}`, asked };
}

// The Worker's output. It arrives by another pipe than the responses, so a response may arrive before its line.
class Log {
  lines = [];
  #requests = [];
  #waiting = [];

  add(line) {
    this.lines.push(line);
    if (!line.startsWith('{"event": "request"')) return;
    this.#requests.push(JSON.parse(line));
    this.#waiting = this.#waiting.filter((isDone) => !isDone());
  }

  // Waits for the log lines of the requests of these responses; returns one for each.
  linesOf(answers) {
    const ids = new Set(answers.map(({ headers }) => headers.get("x-request-id")));
    const { promise, resolve } = Promise.withResolvers();
    const isDone = () => {
      const found = this.#requests.filter(({ request }) => ids.has(request));
      if (found.length < ids.size) return false;
      resolve(found);
      return true;
    };
    if (!isDone()) this.#waiting.push(isDone);
    return promise;
  }
}

class Registry {
  #pushed = 0;

  constructor(local, log) {
    this.local = local;
    this.url = local.url;
    this.log = log;
  }

  // Sends a request by fetch; `authorization` is the header's value.
  async send({ method = "GET", path, authorization, headers = {}, body }) {
    const answer = await fetch(new URL(path, this.url), {
      method,
      redirect: "manual",
      headers: { ...(authorization !== undefined && { authorization }), ...headers },
      body,
      duplex: "half",
    });
    return { status: answer.status, headers: answer.headers, body: Buffer.from(await answer.arrayBuffer()) };
  }

  // Sends a request byte for byte (one per character), since fetch would normalize it. Only a `Host` is added.
  async sendRaw(text) {
    const socket = net.connect({ host: this.url.hostname, port: this.url.port });
    socket.on("error", () => {}); // "close" follows
    socket.write(Buffer.from(text.replace("\r\n", `\r\nHost: ${this.url.host}\r\n`), "latin1"));
    let received = Buffer.alloc(0);
    let answer;
    socket.on("data", (piece) => {
      received = Buffer.concat([received, piece]);
      answer = readAnswer(received);
      if (answer !== undefined) socket.destroy();
    });
    await once(socket, "close");
    assert.ok(answer, `no response to ${JSON.stringify(text.slice(0, 200))}`);
    return answer;
  }

  async healthy() {
    const { status } = await this.send({ path: "/healthz" });
    assert.equal(status, 200, "/healthz");
  }

  // The honest client pushes a small image and pulls it.
  async otherClientWorks() {
    this.#pushed += 1;
    const name = `other/client-${this.#pushed}`;
    const { manifest, blobs } = await this.pushImage(name, `layer ${this.#pushed}`);
    assert.ok((await this.#demand(200, { path: `/v2/${name}/manifests/1` })).body.equals(manifest));
    for (const blob of blobs) {
      assert.ok((await this.#demand(200, { path: `/v2/${name}/blobs/${digestOf(blob)}` })).body.equals(blob));
    }
  }

  // Pushes an image of one layer as tag 1.
  async pushImage(name, layer) {
    const blobs = ["{}", layer].map((text) => Buffer.from(text));
    for (const blob of blobs) {
      const started = await this.#demand(202, { method: "POST", path: `/v2/${name}/blobs/uploads/` });
      const target = new URL(started.headers.get("location"), this.url);
      target.searchParams.set("digest", digestOf(blob));
      await this.#demand(201, { method: "PUT", path: target, body: blob });
    }
    const manifest = Buffer.from(imageOf(...blobs));
    await this.#demand(201, { method: "PUT", path: `/v2/${name}/manifests/1`, body: manifest, headers: { "content-type": MANIFEST } });
    return { manifest, blobs };
  }

  async #demand(expected, request) {
    const answer = await this.send({ authorization: ADMIN, ...request });
    assert.equal(answer.status, expected, `${request.method ?? "GET"} ${request.path} of another client: ${answer.body}`);
    return answer;
  }

  // Runs a table of attacks, one test per row. After each row the health check succeeds. After the table the honest
  // client can work, and the log has no exception and none of `secrets`. A row has
  //   send: a request, several, or a function that makes them: an object for `send`, a text for `sendRaw`;
  //   answer: the expected response to each (`checkAnswer`), unless a request has an `answer` of its own;
  //   check: an optional function that checks each response further.
  attacks(group, rows, secrets = []) {
    describe(group, () => {
      for (const row of rows) {
        test(row.name, async () => {
          const sent = typeof row.send === "function" ? await row.send() : row.send;
          for (const request of [sent].flat()) {
            const answer = await (typeof request === "string" ? this.sendRaw(request) : this.send(request));
            checkAnswer(answer, request.answer ?? row.answer, request);
            await row.check?.(answer, request);
          }
          await this.healthy();
        });
      }
      test("afterwards an honest client pushes and pulls, and the log has no exception and no secret", async () => {
        await this.otherClientWorks();
        // When the line of this last request has arrived, all earlier ones have.
        await this.log.linesOf([await this.send({ path: "/healthz" })]);
        const text = this.log.lines.join("\n");
        assert.doesNotMatch(text, /internal-error|Traceback|RangeError/);
        for (const secret of [OTHER.secret, ADMIN.slice("Basic ".length), ...secrets]) {
          assert.ok(!text.includes(secret), "a secret is in the log");
        }
      });
    });
  }
}

// `expected` is a status and the specification's error code ("401 UNAUTHORIZED"), or a status alone for a success and
// for a request that the runtime refuses before the registry gets it, or a list of alternatives.
function checkAnswer({ status, headers, body }, expected, request) {
  const what = `${JSON.stringify(request).slice(0, 300)} gave ${status} ${body.subarray(0, 300)}`;
  const code = /json/.test(headers.get("content-type")) && body.length > 0 ? JSON.parse(body).errors?.[0].code : undefined;
  const given = code === undefined ? String(status) : `${status} ${code}`;
  // The response to HEAD has no body.
  const wanted = [expected].flat().map((one) => (request.method === "HEAD" ? one.split(" ")[0] : one));
  assert.ok(wanted.includes(given), `${what}; expected ${expected}`);
  assert.doesNotMatch(String(body), /Traceback|\.py\b/, what);
  if (status === 401) assert.match(headers.get("www-authenticate"), /^(Basic|Bearer) /, what);
}

// Parses a response, which must have a Content-Length; returns undefined until it has arrived completely.
function readAnswer(bytes) {
  const end = bytes.indexOf("\r\n\r\n");
  if (end === -1) return undefined;
  const [line, ...fields] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const headers = new Headers(fields.map((field) => [field.slice(0, field.indexOf(":")), field.slice(field.indexOf(":") + 1).trim()]));
  const body = bytes.subarray(end + 4);
  return body.length < Number(headers.get("content-length")) ? undefined : { status: Number(line.split(" ")[1]), headers, body };
}
