// Reads the Worker's settings with wrangler: wrangler.toml, environment `dev`, and .dev.vars. Values are never printed.
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { BUILD, BUNDLE_KEY, write } from "./bundle.mjs";

const ENVIRONMENT = "dev";
const KEPT = "config.json";

// {compatibilityDate, compatibilityFlags, r2Buckets: {binding: bucket name}, datasets: {binding: dataset}, vars, notice?}
export async function readProjectConfig(root) {
  const configPath = join(root, "wrangler.toml");
  const examplePath = join(root, "wrangler.toml.example");
  const readPath = existsSync(configPath) ? configPath : examplePath;
  if (!existsSync(readPath)) throw new Error(`There is neither ${configPath} nor ${examplePath}.`);

  const settings = await settingsIn(readPath);
  const notice = readPath === examplePath ? "No wrangler.toml here: using wrangler.toml.example." : undefined;
  if (!readdirSync(root).some((name) => /^\.(dev\.vars|env)(\.|$)/.test(name))) return { ...settings, notice };
  const { unstable_getVarsForDev } = await import("wrangler");
  const vars = unstable_getVarsForDev(configPath, undefined, settings.vars, ENVIRONMENT, true);
  return { ...settings, notice, vars: Object.fromEntries(Object.entries(vars).map(([name, { value }]) => [name, value])) };
}

// wrangler takes half a second to load, so its result for an unchanged file is cached. Files that may have secrets are not.
async function settingsIn(path) {
  const key = createHash("sha256").update(BUNDLE_KEY).update(readFileSync(import.meta.filename)).update(readFileSync(path)).digest("hex");
  const kept = existsSync(join(BUILD, KEPT)) ? JSON.parse(readFileSync(join(BUILD, KEPT), "utf8")) : {};
  if (kept.key === key) return kept.settings;
  const settings = await readByWrangler(path);
  write(KEPT, JSON.stringify({ key, settings }));
  return settings;
}

async function readByWrangler(path) {
  const { unstable_readConfig } = await import("wrangler");
  // wrangler only reads a file named wrangler.toml.
  const folder = mkdtempSync(join(tmpdir(), "registry-config-"));
  try {
    const copy = join(folder, "wrangler.toml");
    copyFileSync(path, copy);
    const config = unstable_readConfig({ config: copy, env: ENVIRONMENT }, { hideWarnings: true });
    return {
      compatibilityDate: config.compatibility_date,
      compatibilityFlags: config.compatibility_flags,
      r2Buckets: Object.fromEntries(config.r2_buckets.map(({ binding, bucket_name }) => [binding, bucket_name])),
      datasets: Object.fromEntries(config.analytics_engine_datasets.map(({ binding, dataset = binding }) => [binding, dataset])),
      vars: config.vars,
    };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
