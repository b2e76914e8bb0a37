// A client of workerd's V8 inspector that asks an isolate for the size of its heap.

// The inspector target of the user's Worker; Miniflare has Workers of its own, too.
const USER_WORKER = /^core:user:/;

export async function connectInspector(miniflare) {
  const { host } = await miniflare.getInspectorURL();
  const targets = await (await fetch(`http://${host}/json/list`)).json();
  const target = targets.find(({ id }) => USER_WORKER.test(id));
  const socket = new WebSocket(target.webSocketDebuggerUrl);
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("workerd's inspector does not accept the connection"));
  });
  const waiting = new Map();
  let lastId = 0;
  socket.onmessage = ({ data }) => {
    const { id, result, error } = JSON.parse(data);
    waiting.get(id)?.(error ? Promise.reject(new Error(error.message)) : result);
    waiting.delete(id);
  };
  const call = (method, params = {}) =>
    new Promise((resolve) => {
      lastId += 1;
      waiting.set(lastId, resolve);
      socket.send(JSON.stringify({ id: lastId, method, params }));
    });
  return { call, heapUsage: () => call("Runtime.getHeapUsage"), close: () => socket.close() };
}
