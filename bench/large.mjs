// One layer above 5 GiB, which R2 takes only in parts, goes in as docker sends it, comes back and is the same.
//
// SIZE_GIB=5.5  JSON=1
import { createHash, randomFillSync } from "node:crypto";
import { statfsSync } from "node:fs";
import { tmpdir } from "node:os";

import { finish, GIB, inMib, MACHINE, MIB, say, sayTable } from "./support/report.mjs";
import { startOurs } from "./support/targets.mjs";
import { residentBytes, resetPeak } from "./support/workerd.mjs";

const SIZE = Math.round(Number(process.env.SIZE_GIB ?? 5.5) * GIB); // bytes
const DISK_FACTOR = 2.1; // free disk that is asked for, in sizes of the layer: room for the parts and for an accident

// The layer: one random block again and again, each time with a number in it, so that no two parts are equal.
function* layer() {
  const random = randomFillSync(Buffer.alloc(MIB));
  for (let number = 0; number * MIB < SIZE; number += 1) {
    const block = Buffer.from(random); // the one before may not be sent yet
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

// Runs `move` and tells how fast, and the most memory that workerd had meanwhile.
async function measured(pid, move) {
  resetPeak(pid);
  const start = performance.now();
  await move();
  const seconds = (performance.now() - start) / 1000;
  return { seconds, mibPerSecond: SIZE / MIB / seconds, peakResidentBytes: residentBytes(pid).peak };
}

const { bavail, bsize } = statfsSync(tmpdir());
if (bavail * bsize < SIZE * DISK_FACTOR) {
  throw new Error(`${tmpdir()} has ${inMib(bavail * bsize)} MiB free; ${inMib(SIZE * DISK_FACTOR)} are needed (SIZE_GIB= for less)`);
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
  say(isSame ? `${digest}: what came back is what was sent.` : `${digest}: ANOTHER layer came back, of ${size} bytes.`);
  finish({ machine: MACHINE, bytes: SIZE, digest, isSame, push, pull }, { failed: !isSame });
} finally {
  await dispose();
}
