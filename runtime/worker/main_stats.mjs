// The main module with STATS=1: workerd takes no undefined export, so `Stats` has a module of its own.
export { default } from "./main.mjs";
export { Stats } from "./stats.mjs";
