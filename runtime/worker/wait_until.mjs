// A coroutine that Python hands to ctx.waitUntil is destroyed when that call returns, before it ran.
// So it is copied first and destroyed when it is done, as in Cloudflare's python-entrypoint-helper.ts.
const patched = new WeakSet();

export function patchWaitUntil(ctx) {
  if (Object.prototype.toString.call(ctx) !== "[object ExecutionContext]" || patched.has(ctx)) return;
  const waitUntil = ctx.waitUntil.bind(ctx);
  ctx.waitUntil = (awaitable) => {
    waitUntil(settled("copy" in awaitable ? awaitable.copy() : awaitable));
  };
  patched.add(ctx);
}

async function settled(awaitable) {
  try {
    await awaitable;
  } finally {
    if ("destroy" in awaitable) awaitable.destroy();
  }
}
