// Makes keys and tokens (RFC 7519), as an operator, an issuer or an attacker does.
import { createHmac, generateKeyPairSync, sign } from "node:crypto";

import { now } from "./support.mjs";

export const encode = (value) =>
  Buffer.from(Buffer.isBuffer(value) || typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

// The arguments of Node's functions for making keys and for signing, by algorithm.
const ALGORITHMS = {
  ES256: { pair: ["ec", { namedCurve: "P-256" }], hash: "sha256", options: { dsaEncoding: "ieee-p1363" } },
  ES384: { pair: ["ec", { namedCurve: "P-384" }], hash: "sha384", options: { dsaEncoding: "ieee-p1363" } },
  RS256: { pair: ["rsa", { modulusLength: 2048 }], hash: "sha256", options: {} },
};

export class Key {
  // `options` are further ones for Node's generateKeyPairSync.
  constructor(algorithm, id, options = {}) {
    this.algorithm = algorithm;
    this.id = id;
    const [kind, usual] = ALGORITHMS[algorithm].pair;
    Object.assign(this, generateKeyPairSync(kind, { ...usual, ...options }));
  }

  jwk() {
    return { ...this.publicKey.export({ format: "jwk" }), kid: this.id, alg: this.algorithm };
  }

  pem() {
    return this.publicKey.export({ format: "pem", type: "spki" });
  }

  der() {
    return this.publicKey.export({ format: "der", type: "spki" });
  }

  signature(text, options = {}) {
    const { hash, options: usual } = ALGORITHMS[this.algorithm];
    return sign(hash, Buffer.from(text), { key: this.privateKey, ...usual, ...options });
  }

  // `header` and `claims` are objects, or texts that are signed unchanged.
  token(claims, header = {}) {
    const head = typeof header === "string" ? header : { alg: this.algorithm, kid: this.id, ...header };
    const text = `${encode(head)}.${encode(claims)}`;
    return `${text}.${encode(this.signature(text))}`;
  }
}

// A token with an HMAC signature; the secret is any text.
export function hmacToken(secret, claims, header = {}) {
  const text = `${encode({ alg: "HS256", typ: "JWT", ...header })}.${encode(claims)}`;
  return `${text}.${encode(createHmac("sha256", secret).update(text).digest())}`;
}

// The token with other content in one of its three segments.
export function withSegment(token, index, bytes) {
  const segments = token.split(".");
  segments[index] = encode(bytes);
  return segments.join(".");
}

export const decode = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
export const soon = () => now() + 60;
