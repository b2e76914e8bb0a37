// Pushes one layer above 5 GiB in docker's way, pulls it and compares the digests. R2 stores objects of this size only
// in parts.
//
// Environment: SIZE_GIB=5.5  JSON=1
import { createHash, randomFillSync } from "node:crypto";
import { statfsSync } from "node:fs";
import { tmpdir } from "node:os";

import { finish, GIB, inMib, MACHINE, MIB, say, sayTable } from "./support/report.mjs";
import { startOurs } from "./support/targets.mjs";
import { residentBytes, resetPeak } from "./support/workerd.mjs";

const SIZE = Math.round(Number(process.env.SIZE_GIB ?? 5.5) * GIB); // bytes
const DISK_FACTOR = 2.1; // required free disk, as a multiple of the layer's size: the parts and a reserve

// The layer repeats one random block with a running number in it, so that no two parts are equal.
function* layer() {
  const random = randomFillSync(Buffer.alloc(MIB));
  for (let number = 0; number * MIB < SIZE; number += 1) {
    const block = Buffer.from(random); // a copy, since the previous block may not be sent yet
    block.writeUInt32LE(number);
    yield block.subarray(0, Math.min(MIB, SIZE - number * MIB));
  }
}

function* hashed(blocks, hash) {
  for (const block of blocks) {
    hash.update(block);
    yield block;
  }
}

// Runs `move`; returns its speed and workerd's peak memory.
async function measured(pid, move) {
  resetPeak(pid);
  const start = performance.now();
  await move();
  const seconds = (performance.now() - start) / 1000;
  return { seconds, mibPerSecond: SIZE / MIB / seconds, peakResidentBytes: residentBytes(pid).peak };
}

const { bavail, bsize } = statfsSync(tmpdir());
if (bavail * bsize < SIZE * DISK_FACTOR) {
  throw new Error(`${tmpdir()} has ${inMib(bavail * bsize)} MiB free, but ${inMib(SIZE * DISK_FACTOR)} MiB are needed: free some, or set a smaller SIZE_GIB`);
}

say(`${(SIZE / GIB).toFixed(2)} GiB, ${MACHINE}\n`);
const { client, pid, dispose } = await startOurs();
try {
  const [sent, received] = [createHash("sha256"), createHash("sha256")];
  let digest;
  const push = await measured(pid, async () => {
    digest = await client.pushChunked("bench/large", hashed(layer(), sent), () => `sha256:${sent.digest("hex")}`);
  });
  let size;
  const pull = await measured(pid, async () => {
    ({ size } = await client.send("GET", `/v2/bench/large/blobs/${digest}`, { onData: (data) => received.update(data) }));
  });
  const isSame = size === SIZE && `sha256:${received.digest("hex")}` === digest;
  sayTable(
    Object.entries({ push, pull }).map(([name, { seconds, mibPerSecond, peakResidentBytes }]) => ({
      "": name,
      seconds: seconds.toFixed(1),
      "MiB/s": mibPerSecond.toFixed(1),
      "peak resident MiB": inMib(peakResidentBytes),
    })),
  );
  say(isSame ? `${digest}: the pulled layer equals the pushed one.` : `${digest}: the pulled layer DIFFERS and has ${size} bytes.`);
  finish({ machine: MACHINE, bytes: SIZE, digest, isSame, push, pull }, { failed: !isSame });
} finally {
  await dispose();
}
