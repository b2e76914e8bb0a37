// Attacks on the memory of an isolate, by anonymous clients and pushers (docs/security.md, kinds A to D).
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { AUTHORIZATION, digestOf } from "./client.mjs";
import { MIB } from "./report.mjs";

const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const LARGEST = 4 * MIB; // bytes of a manifest
const EMPTY = Buffer.from("{}");
const SUBJECT = { mediaType: MANIFEST, digest: digestOf(Buffer.from("the subject")), size: 11 };
const NAME = "memory/attacked";

// Returns [{name, run(client, url)}]. Each needs a registry of its own. `run` throws for a wrong response, and may
// return {milliseconds}, the time of another client's PATCH. `scale` is 1 for the full size; tests use less.
export function loads(scale = 1) {
  const count = (whole) => Math.max(2, Math.round(whole * scale));
  return [
    {
      name: `ten uploads at once at 1 MB/s, ${Math.round(20 * scale)} MB each`,
      run: (client) =>
        atOnce(10, async (number) => {
          const data = Buffer.alloc(Math.round(20e6 * scale), `upload ${number}`);
          await client.pushChunked(NAME, slowly(data), digestOf(data));
        }),
    },
    ...["{}", "[[0]]", "0", '""', '{"a":[]}'].map((piece) => ({
      name: `${count(10)} manifests of 4 MiB of ${piece}, all at once`,
      run: (client) => atOnce(count(10), () => put(client, `/v2/${NAME}/manifests/1`, filled(piece), 400)),
    })),
    {
      name: `${count(4)} manifests with as many values as one may have`,
      run: async (client) => {
        await pushConfig(client);
        const values = Array.from({ length: 32_000 }, (_, number) => ({ [`name ${number}`]: "a value of some sixty characters, as annotations have them" }));
        await atOnce(count(4), () => put(client, `/v2/${NAME}/manifests/1`, manifestWith({ values }), 201));
      },
    },
    {
      name: `${count(40)} referrers with 4 MiB of annotations each, and ${count(10)} that list them`,
      run: async (client) => {
        await pushConfig(client);
        for (let number = 0; number < count(40); number += 1) {
          const data = manifestWith({ subject: SUBJECT, annotations: { number: String(number), large: "y".repeat(LARGEST - 1000) } });
          await put(client, `/v2/${NAME}/manifests/${digestOf(Buffer.from(data))}`, data, 201);
        }
        const answers = await atOnce(count(10), () => client.send("GET", `/v2/${NAME}/referrers/${SUBJECT.digest}`));
        demand(answers.every(({ size }) => size < 64 * 1024), "the list of referrers is too large");
      },
    },
    {
      name: `${count(40)} pushes of manifests that stall`,
      run: (client, url) => stall(url, count(40), { path: `PUT /v2/${NAME}/manifests/1`, length: LARGEST, sent: LARGEST - 10, type: MANIFEST }, () => otherPush(client)),
    },
    {
      name: `${count(100)} strangers that announce 90 MB and send one byte`,
      run: (client, url) => stall(url, count(100), { path: `PATCH /v2/${NAME}/blobs/uploads/x`, length: 90_000_000, sent: 1, isStranger: true }, () => otherPush(client)),
    },
  ];
}

const atOnce = (count, run) => Promise.all(Array.from({ length: count }, (_, number) => run(number)));

function demand(condition, message) {
  if (!condition) throw new Error(message);
}

const filled = (piece) => `[${Array(Math.floor((LARGEST - 4) / (piece.length + 1))).fill(piece).join(",")}]`;

function manifestWith(members) {
  const config = { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(EMPTY), size: EMPTY.length };
  return JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST, config, layers: [], ...members });
}

async function put(client, path, text, expected) {
  let status;
  try {
    ({ status } = await client.send("PUT", path, { body: Buffer.from(text), headers: { "content-type": MANIFEST } }));
  } catch (error) {
    if (error.status === undefined) throw error;
    status = error.status;
  }
  demand(status === expected, `PUT ${path} gave ${status}, expected ${expected}`);
}

async function pushConfig(client) {
  const location = await client.startUpload(NAME);
  await client.send("PUT", `${location}?digest=${digestOf(EMPTY)}`, { body: EMPTY });
}

// Another client pushes 1 KiB: returns the milliseconds that its PATCH took.
async function otherPush(client) {
  const location = await client.startUpload("memory/other");
  const began = performance.now();
  await client.send("PATCH", location, { body: Buffer.alloc(1024) });
  return Math.round(performance.now() - began);
}

// Opens connections that stall, lets another client work meanwhile, and waits until the registry has answered one.
async function stall(url, count, request, meanwhile) {
  const sockets = await atOnce(count, () => stalled(url, request));
  const milliseconds = await meanwhile();
  await Promise.race(sockets.map(({ answered }) => answered));
  for (const { socket } of sockets) socket.destroy();
  await meanwhile();
  return { milliseconds };
}

async function stalled(url, { path, length, sent, type, isStranger }) {
  const socket = net.connect(url.port, url.hostname);
  socket.on("error", () => {}); // the registry closes it
  const { promise: answered, resolve } = Promise.withResolvers();
  socket.on("data", resolve);
  socket.on("close", resolve);
  const headers = [`Host: ${url.host}`, `Content-Length: ${length}`];
  if (type) headers.push(`Content-Type: ${type}`);
  if (!isStranger) headers.push(`Authorization: ${AUTHORIZATION}`);
  await new Promise((written) => {
    socket.write(`${path} HTTP/1.1\r\n${headers.join("\r\n")}\r\n\r\n`);
    socket.write(Buffer.alloc(sent, "a"), written);
  });
  return { socket, answered };
}

async function* slowly(data) {
  for (let at = 0; at < data.length; at += 100_000) {
    yield data.subarray(at, at + 100_000);
    await sleep(100);
  }
}
