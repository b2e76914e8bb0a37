// Prints results as plain tables, or as one JSON object with JSON=1.
import { cpus } from "node:os";

export const MIB = 1024 ** 2;
export const GIB = 1024 ** 3;

const AS_JSON = process.env.JSON === "1";

export const MACHINE = `${cpus().length} × ${cpus()[0].model}`;

// Prints a line of text, unless the output is JSON.
export function say(line = "") {
  if (!AS_JSON) process.stdout.write(`${line}\n`);
}

// Prints `rows`, objects whose keys are the column titles.
export function sayTable(rows) {
  const titles = Object.keys(rows[0]);
  const lines = [titles, ...rows.map((row) => titles.map((title) => String(row[title] ?? "")))];
  const widths = titles.map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  for (const line of lines) {
    // The first column holds names, the others numbers.
    say(line.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))).join("  "));
  }
  say();
}

export function finish(result, { failed = false } = {}) {
  if (AS_JSON) process.stdout.write(`${JSON.stringify(result)}\n`);
  if (failed) process.exitCode = 1;
}

export function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export const sum = (values) => values.reduce((total, value) => total + value, 0);

export const inMib = (bytes) => (bytes / MIB).toFixed(1);
