// Sides of a comparison that take turns, and the rows that come of it.
import { median, sayTable } from "./report.mjs";

// The side that the others are compared with.
const OURS = "registry";

export const spread = (values) => ({ median: median(values), min: Math.min(...values), max: Math.max(...values) });

// Takes a sample of every side, `rounds` times after a round that warms up: {side: [sample, ...]}. Each round another
// side comes first, so that none always comes after the same one.
export async function inTurn(sides, rounds, sample) {
  const names = Object.keys(sides);
  const samples = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = -1; round < rounds; round += 1) {
    for (let place = 0; place < names.length; place += 1) {
      const name = names[(place + round + 1) % names.length];
      const taken = await sample(sides[name], name);
      if (round >= 0) samples[name].push(taken);
    }
  }
  return samples;
}

// One row: what each side took, and our ratio to each of the others. budgets: {side: {atLeast} or {atMost}}, of the median.
export function compared(name, unit, samples, budgets = {}) {
  const sides = Object.fromEntries(Object.entries(samples).map(([side, values]) => [side, spread(values)]));
  const ratios = {};
  for (const [side, values] of Object.entries(samples)) {
    if (side !== OURS) ratios[side] = spread(values.map((value, round) => samples[OURS][round] / value));
  }
  return {
    name,
    unit,
    sides,
    ratios,
    budgets: Object.entries(budgets).map(([side, { atLeast = 0, atMost = Infinity }]) => ({
      side,
      budget: atLeast > 0 ? `>= ${atLeast}` : `<= ${atMost}`,
      met: ratios[side].median >= atLeast && ratios[side].median <= atMost,
    })),
  };
}

export const shown = ({ median: middle, min, max }, digits) => `${middle.toFixed(digits)} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;

// Rows of one unit and the same sides.
export function sayRows(title, rows, digits = 0) {
  sayTable(
    rows.map(({ name, sides, ratios, budgets }) => ({
      [title]: name,
      ...Object.fromEntries(Object.entries(sides).map(([side, values]) => [side, values.median.toFixed(digits)])),
      ...Object.fromEntries(Object.entries(ratios).map(([side, values]) => [`to ${side}`, shown(values, 2)])),
      budget: budgets.map(({ side, budget, met }) => `${side} ${budget} ${met ? "met" : "MISSED"}`).join(", "),
    })),
  );
}
