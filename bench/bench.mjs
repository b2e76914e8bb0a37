// Measures the registry's speed, and compares it with minimal Workers and with Debian's docker-registry on its file
// system. All sides take turns within one run, because machines are noisy. Only the ratios are valid on other machines.
//
// Environment: ONLY=bytes,requests,images,start,cpu  ROUNDS=5  JSON=1  BUDGET=1 (exit code 1 when a budget is missed)
// The results are also written to build/bench.json.
import { existsSync, mkdirSync, writeFileSync } from "node:fs";

import { finish, MACHINE, say } from "./support/report.mjs";
import { DOCKER_REGISTRY, SKOPEO } from "./support/targets.mjs";

const SECTIONS = ["bytes", "requests", "images", "start", "cpu"];
const ROUNDS = Number(process.env.ROUNDS ?? 5);
const wanted = process.env.ONLY?.split(",") ?? SECTIONS;

const unknown = wanted.find((name) => !SECTIONS.includes(name));
if (unknown !== undefined) throw new Error(`ONLY=${unknown}: unknown section; use ${SECTIONS.join(", ")}`);
for (const program of [DOCKER_REGISTRY, SKOPEO]) {
  if (!existsSync(program)) throw new Error(`${program} is missing: install it with tests/clients/install.sh`);
}

say(`${MACHINE}, Node ${process.versions.node}, ${ROUNDS} rounds. Ratios are the registry's to the other's, of each round:`);
say("median (minimum to maximum).\n");
const sections = {};
for (const name of SECTIONS.filter((section) => wanted.includes(section))) {
  const { run } = await import(`./sections/${name}.mjs`);
  sections[name] = await run(ROUNDS);
}
const missed = Object.values(sections).flatMap(({ rows = [] }) => rows.flatMap(({ budgets = [] }) => budgets)).filter(({ met }) => !met);
const result = { machine: MACHINE, node: process.versions.node, rounds: ROUNDS, sections };
mkdirSync("build", { recursive: true });
writeFileSync("build/bench.json", JSON.stringify(result, undefined, 1));
finish(result, { failed: missed.length > 0 && process.env.BUDGET === "1" });
