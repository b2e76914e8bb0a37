// Cold start: the time from the start of workerd to the first response, and of importing the registry in Pyodide.
import { compared, inTurn, sayRows, shown, spread } from "../support/compare.mjs";
import { say } from "../support/report.mjs";
import { startFloor, startOurs } from "../support/targets.mjs";

const MAX_IMPORT = 120; // budget in milliseconds, without the import of the SDK

export async function run(rounds) {
  const starts = await inTurn({ registry: startOurs, floor: startFloor }, rounds, firstAnswer);
  const rows = [compared("start to first answer", "s", starts)];
  const imports = [];
  for (let round = 0; round < rounds; round += 1) imports.push(await importTime());
  const milliseconds = spread(imports);
  const met = milliseconds.median < MAX_IMPORT;
  sayRows("seconds; the floor is a Python Worker without the registry", rows, 2);
  say(`import of the registry beyond the SDK: ${shown(milliseconds, 0)} ms, budget < ${MAX_IMPORT} ms ${met ? "met" : "MISSED"}\n`);
  rows.push({ name: "import", unit: "ms", sides: { registry: milliseconds }, ratios: {}, budgets: [{ side: "registry", budget: `< ${MAX_IMPORT}`, met }] });
  return { rows };
}

async function firstAnswer(start) {
  const began = performance.now();
  const target = await start();
  try {
    await target.client.send("GET", "/v2/");
    return (performance.now() - began) / 1000;
  } finally {
    await target.dispose();
  }
}

// Milliseconds of the first `import entry` in a fresh interpreter that has the SDK, less those of a second one. This
// process measures them, since the clock of a Worker stands still while it computes.
async function importTime() {
  const target = await startOurs({ entry: "import_entry", sources: ["src", "bench/entry"] });
  const ask = async (path) => {
    const began = performance.now();
    await target.client.send("GET", path);
    return performance.now() - began;
  };
  try {
    await ask("/nothing");
    return (await ask("/import")) - (await ask("/import"));
  } finally {
    await target.dispose();
  }
}
