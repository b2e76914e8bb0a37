// Takes samples of the sides of a comparison in turn, and prints the results as rows.
import { median, sayTable } from "./report.mjs";

// The side that is compared with each of the others.
const OURS = "registry";

export const spread = (values) => ({ median: median(values), min: Math.min(...values), max: Math.max(...values) });

// Takes a sample of every side in each of `rounds` rounds, after a warm-up round; returns {side: [sample, ...]}. Each
// round begins with another side, so that no side always follows the same one.
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

// One row: the spread of each side, and the registry's ratio to each other side. `budgets` limit the median ratio:
// {side: {atLeast} or {atMost}}.
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

// Prints rows with the same unit and sides.
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
