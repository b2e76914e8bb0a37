// A fast HTTP client on node:http: request bodies are a Buffer or slices; response bytes are counted, not kept.
import { createHash } from "node:crypto";
import * as http from "node:http";
import * as https from "node:https";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";

export const AUTHORIZATION = `Basic ${Buffer.from("hello:world").toString("base64")}`;

const EMPTY = Buffer.alloc(0);

// The registry's settings that match AUTHORIZATION.
export const CREDENTIALS = { USERNAME: "hello", PASSWORD: "world" };

export const digestOf = (data) => `sha256:${createHash("sha256").update(data).digest("hex")}`;

export class HttpError extends Error {
  constructor(method, path, { status, headers, text }) {
    super(`${method} ${path} gave ${status}: ${text}`);
    Object.assign(this, { status, headers });
  }
}

export class Client {
  // One connection per request, as dockerd does. Node closes a kept-alive connection after 5 idle seconds, perhaps just
  // when the next request begins.
  #agent;
  #base;
  #protocol;

  constructor(base) {
    this.#base = base;
    this.#protocol = new URL(base).protocol === "https:" ? https : http;
    // The certificates are self-signed for each run.
    this.#agent = new this.#protocol.Agent({ keepAlive: false, rejectUnauthorized: false });
  }

  // Sends a request; returns {status, headers, size}, throws HttpError for a status of 400 or more.
  //   body    a Buffer, or an iterable of Buffers, which are sent with backpressure
  //   length  bytes of an iterable body; without it the body is sent in chunked transfer encoding
  //   onData  gets the response's bytes, which are counted in any case
  async send(method, path, { headers = {}, body = EMPTY, length, onData } = {}) {
    const isWhole = Buffer.isBuffer(body);
    if (isWhole) length = body.length;
    const framing = length === undefined ? { "transfer-encoding": "chunked" } : { "content-length": length };
    const outgoing = this.#protocol.request(new URL(path, this.#base), {
      method,
      agent: this.#agent,
      headers: { authorization: AUTHORIZATION, ...(method === "GET" ? {} : framing), ...headers },
    });
    const { promise, resolve, reject } = Promise.withResolvers();
    outgoing.once("response", resolve);
    outgoing.on("error", (cause) => reject(new Error(`${method} ${path}: ${cause.message}`, { cause })));
    if (isWhole) outgoing.end(body);
    else pipeline(Readable.from(body, { objectMode: true, highWaterMark: 1 }), outgoing).catch(reject);
    const incoming = await promise;
    const answer = { status: incoming.statusCode, headers: incoming.headers, size: 0, text: "" };
    try {
      for await (const data of incoming) {
        answer.size += data.length;
        onData?.(data);
        if (answer.status >= 400) answer.text += data;
      }
    } catch (error) {
      // The registry may refuse a request before the end of its body; workerd then resets the connection. The status is
      // known already.
      if (answer.status < 400) throw error;
    }
    if (answer.status < 400) return answer;
    outgoing.destroy();
    throw new HttpError(method, path, answer);
  }

  // POST, then PUT with the whole blob.
  async pushMonolithic(name, data, digest) {
    await this.send("PUT", withDigest(await this.startUpload(name), digest), { body: data });
  }

  // POST, PATCH in chunked transfer encoding, PUT, as dockerd does. `digest` may be a function, called after the PATCH.
  async pushChunked(name, slices, digest) {
    const patched = await this.send("PATCH", await this.startUpload(name), { body: slices });
    const known = typeof digest === "function" ? digest() : digest;
    await this.send("PUT", withDigest(patched.headers.location, known));
    return known;
  }

  async startUpload(name) {
    const started = await this.send("POST", `/v2/${name}/blobs/uploads/`);
    return started.headers.location;
  }

  close() {
    this.#agent.destroy();
  }
}

// Yields views of a Buffer, without copies.
export function* inSlices(data, size) {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

function withDigest(location, digest) {
  return `${location}${location.includes("?") ? "&" : "?"}digest=${digest}`;
}
