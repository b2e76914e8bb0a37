// The listener in front of workerd. Docker and skopeo try TLS first, and workerd leaves a TLS
// ClientHello on a plain port unanswered, which costs such a client 10 s per command. So the listener checks
// the first byte of each connection, and forwards everything else unchanged.
import { once } from "node:events";
import net from "node:net";

// First byte of a TLS handshake record (RFC 8446, 5.1). No HTTP method begins with it.
const TLS_HANDSHAKE = 0x16;

// The answer of a Go HTTP server to a ClientHello: Go's clients recognize it and continue with plain HTTP.
const SPEAK_HTTP = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks plain HTTP.\n";

// The answer while serve.mjs waits for a correction of a broken source file.
const NOT_RUNNING = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThe registry did not start: see its terminal.\n";

// A client may resolve "localhost" to either address.
const LOCALHOST = ["127.0.0.1", "::1"];

// target: resolves to the URL to which connections are forwarded (they wait for it); rejects if nothing is running.
export async function startFront({ host, port, target }) {
  const connections = new Set();
  const servers = [];
  for (const address of host === "localhost" ? LOCALHOST : [host]) {
    const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (client) => accept(client, target, connections));
    try {
      server.listen({ host: address, port: servers[0]?.address().port ?? port });
      await once(server, "listening");
      servers.push(server);
    } catch (error) {
      // A machine without IPv6 has only the first address.
      if (servers.length > 0 && ["EADDRNOTAVAIL", "EAFNOSUPPORT"].includes(error.code)) continue;
      for (const open of servers) open.close();
      throw error;
    }
  }
  const { port: actualPort } = servers[0].address();
  return {
    url: new URL(`http://${host.includes(":") ? `[${host}]` : host}:${actualPort}`),
    async close() {
      for (const server of servers) server.close();
      for (const client of connections) client.destroy();
    },
  };
}

function accept(client, target, connections) {
  const hangUp = () => client.end();
  connections.add(client);
  client.on("close", () => connections.delete(client));
  client.on("error", () => {}); // "close" follows, and its handler does the work
  client.once("end", hangUp);
  client.once("data", async (first) => {
    client.off("end", hangUp);
    if (first[0] === TLS_HANDSHAKE) return client.end(SPEAK_HTTP);
    client.pause();
    try {
      const { hostname, port } = await target();
      if (!client.destroyed) connect(client, first, net.connect({ host: hostname, port, allowHalfOpen: true, noDelay: true }));
    } catch {
      client.resume().end(NOT_RUNNING);
    }
  });
}

function connect(client, first, worker) {
  worker.write(first);
  client.pipe(worker).pipe(client);
  // To the Worker, a client that resets or disconnects before its answer must not look like one that has sent its whole
  // request.
  client.on("close", () => worker.resetAndDestroy());
  worker.on("error", () => {});
  // The client still gets the bytes that the Worker sent before it closed.
  worker.on("close", () => client.destroySoon());
}
