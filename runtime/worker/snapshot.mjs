// At deploy Cloudflare takes a memory snapshot after the import of the entry module. JavaScript objects
// that Python holds by then must be found again by name: globals, and what imported modules export.
// Any other one fails the deploy with "Can't serialize top-level variable".

// How deep below globalThis or a module an object is looked for: js.crypto.subtle.digest is 3.
const DEPTH = 3;

// Pyodide's table of the JavaScript objects that Python references, by index; it throws past the end.
export function liveJsObjects(pyodideModule) {
  const objects = new Set();
  for (let index = 0; ; index += 1) {
    try {
      objects.add(pyodideModule.__hiwire_get(index));
    } catch {
      return objects;
    }
  }
}

// One object that came since `before` and cannot be reached from `roots`, or undefined.
export function unserializable(pyodideModule, before, roots) {
  const fresh = liveJsObjects(pyodideModule).difference(before);
  let found = new Set(roots);
  for (let level = 0, edge = roots; level <= DEPTH && !fresh.isSubsetOf(found); level += 1) {
    edge = edge.flatMap(members).filter((value) => !found.has(value));
    found = found.union(new Set(edge));
  }
  return [...fresh.difference(found)].find((value) => value !== null);
}

function members(object) {
  const values = [];
  for (let holder = object; holder; holder = Object.getPrototypeOf(holder)) {
    values.push(holder);
    for (const key of Object.getOwnPropertyNames(holder)) {
      try {
        values.push(object[key]);
      } catch {
        // A getter that wants another receiver, or a context that does not exist yet: nothing to find.
      }
    }
  }
  return values.filter((value) => value !== null && ["object", "function"].includes(typeof value));
}
