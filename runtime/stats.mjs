// Counts the Worker's R2 calls per endpoint (STATS=1). stats_entry.py gives Python only wrapped bindings, so all calls are
// counted, whichever code makes them.
import { AsyncLocalStorage } from "node:async_hooks";

// R2's price classes: https://developers.cloudflare.com/r2/pricing/. resumeMultipartUpload is no call.
const BUCKET_CALLS = { put: "A", list: "A", createMultipartUpload: "A", head: "B", get: "B", delete: "free" };
const UPLOAD_CALLS = { uploadPart: "A", complete: "A", abort: "free" };

// The order matters: a repository name may have segments such as `blobs`.
const TEMPLATES = [
  [/^\/v2\/.+\/blobs\/uploads\/$/, "/v2/<name>/blobs/uploads/"],
  [/^\/v2\/.+\/blobs\/uploads\/.+$/, "/v2/<name>/blobs/uploads/<id>"],
  [/^\/v2\/.+\/blobs\/[^/]+$/, "/v2/<name>/blobs/<digest>"],
  [/^\/v2\/.+\/manifests\/[^/]+$/, "/v2/<name>/manifests/<reference>"],
  [/^\/v2\/.+\/referrers\/[^/]+$/, "/v2/<name>/referrers/<digest>"],
  [/^\/v2\/.+\/tags\/list$/, "/v2/<name>/tags/list"],
];

// Calls outside any request, and in `scheduled`.
const OTHER = "other";

// Follows a request through Python too: Pyodide's tasks and JSPI resume by promises of the request.
const endpoint = new AsyncLocalStorage();
const counters = new Map();

// Lengths of the streams that R2 accepts: a stream has no property for it.
const streamLengths = new WeakMap();

globalThis.FixedLengthStream = class extends FixedLengthStream {
  constructor(length, ...rest) {
    super(length, ...rest);
    streamLengths.set(this.readable, Number(length));
  }
};

// Answers requests to the statistics port.
export function answer(request) {
  const { pathname } = new URL(request.url);
  if (request.method === "GET" && pathname === "/stats") return Response.json(Object.fromEntries(counters));
  if (request.method === "POST" && pathname === "/reset") {
    counters.clear();
    return Response.json({});
  }
  return new Response("GET /stats or POST /reset\n", { status: 404 });
}

// Runs `handle` so that the R2 calls it leads to are counted for the request's endpoint.
export function attributed(request, handle) {
  const name = `${request.method} ${template(new URL(request.url).pathname)}`;
  const length = request.headers.get("content-length");
  if (request.body && length !== null) streamLengths.set(request.body, Number(length));
  counter(name).n += 1;
  return endpoint.run(name, handle);
}

// `env` with its buckets wrapped.
export const countedEnv = once((env) =>
  new Proxy(env, {
    get(_, name) {
      const value = env[name];
      return value?.constructor?.name === "R2Bucket" ? countedBucket(value) : value;
    },
  }),
);

// The module `cloudflare:workers` with its `env` wrapped.
export const countedModule = once((module) => ({ ...module, env: countedEnv(module.env) }));

function template(path) {
  return TEMPLATES.find(([pattern]) => pattern.test(path))?.[1] ?? path;
}

function counter(name) {
  if (!counters.has(name)) counters.set(name, { n: 0, A: 0, B: 0, free: 0, written: 0, read: 0 });
  return counters.get(name);
}

const countedBucket = once((bucket) =>
  withCountedCalls(bucket, BUCKET_CALLS, {
    put(counted, [, value], object) {
      counted.written += byteLength(value) ?? object?.size ?? 0;
    },
    get(counted, _arguments, object) {
      if (!object?.body) return;
      const length = object.range?.length ?? object.size;
      streamLengths.set(object.body, length);
      counted.read += length;
    },
    createMultipartUpload: (_counted, _arguments, upload) => countedUpload(upload),
    resumeMultipartUpload: (_counted, _arguments, upload) => countedUpload(upload),
  }),
);

function countedUpload(upload) {
  return withCountedCalls(upload, UPLOAD_CALLS, {
    uploadPart(counted, [, value]) {
      counted.written += byteLength(value) ?? 0;
    },
  });
}

// calls: price class by method. after: what else to count once a call succeeded; what it returns, if
// anything, replaces the result.
function withCountedCalls(target, calls, after) {
  const counting = once((method) => (...args) => {
    const counted = counter(endpoint.getStore() ?? OTHER);
    if (method.name in calls) counted[calls[method.name]] += 1;
    const finish = (result) => after[method.name]?.(counted, args, result) ?? result;
    const result = method.apply(target, args);
    return result instanceof Promise ? result.then(finish) : finish(result);
  });
  return new Proxy(target, {
    get(_, name) {
      const value = target[name];
      return typeof value === "function" && name !== "constructor" ? counting(value) : value;
    },
  });
}

// Returns the same wrapper for the same object, so that comparisons of identity still hold.
function once(wrap) {
  const wrappers = new WeakMap();
  return (object) => {
    if (!wrappers.has(object)) wrappers.set(object, wrap(object));
    return wrappers.get(object);
  };
}

function byteLength(value) {
  if (typeof value === "string") return new TextEncoder().encode(value).length;
  if (value instanceof ReadableStream) return streamLengths.get(value);
  return value?.byteLength ?? value?.size;
}
