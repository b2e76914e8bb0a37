// A load generator: sends requests one after the other on several connections, and measures rate and latency.
import { Agent, request } from "node:http";

// The value below which `share` of the sorted values lie.
const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

// Returns {perSecond, p50, p99}, the latencies in milliseconds. Every response must have `status`.
export async function load(base, { method, path, headers = {}, status = 200 }, { connections, requests }) {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const url = new URL(path, base);
  const times = [];
  let left = requests;
  const start = performance.now();
  await Promise.all(
    Array.from({ length: connections }, async () => {
      while (left > 0) {
        left -= 1;
        const sent = performance.now();
        await ask(url, { method, headers, agent }, status);
        times.push(performance.now() - sent);
      }
    }),
  );
  const seconds = (performance.now() - start) / 1000;
  agent.destroy();
  times.sort((a, b) => a - b);
  return { perSecond: requests / seconds, p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
}

function ask(url, options, status) {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, options, (incoming) => {
      incoming.on("error", reject);
      incoming.on("end", () => (incoming.statusCode === status ? resolve() : reject(new Error(`${options.method} ${url.pathname} gave ${incoming.statusCode}`))));
      incoming.resume();
    });
    outgoing.on("error", reject);
    outgoing.end();
  });
}
