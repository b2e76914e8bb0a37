// The worker's settings as wrangler itself reads them: wrangler.toml, environment `dev`, and .dev.vars.
// Values are handed on and never printed.
import { copyFileSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unstable_getVarsForDev, unstable_readConfig } from "wrangler";

const ENVIRONMENT = "dev";

// {compatibilityDate, compatibilityFlags, r2Buckets: {binding: bucket name}, datasets: {binding: dataset}, vars, notice?}
export function readProjectConfig(root) {
  const configPath = join(root, "wrangler.toml");
  const examplePath = join(root, "wrangler.toml.example");
  if (existsSync(configPath)) return settings(configPath, configPath);

  if (!existsSync(examplePath)) throw new Error(`There is neither ${configPath} nor ${examplePath}.`);
  // wrangler reads only files with its own names.
  const folder = mkdtempSync(join(tmpdir(), "registry-config-"));
  try {
    const copy = join(folder, "wrangler.toml");
    copyFileSync(examplePath, copy);
    return { ...settings(copy, configPath), notice: "No wrangler.toml here: using wrangler.toml.example." };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function settings(readPath, configPath) {
  const config = unstable_readConfig({ config: readPath, env: ENVIRONMENT }, { hideWarnings: true });
  // .dev.vars lies beside the (possibly absent) wrangler.toml.
  const vars = unstable_getVarsForDev(configPath, undefined, config.vars, ENVIRONMENT, true);
  return {
    compatibilityDate: config.compatibility_date,
    compatibilityFlags: config.compatibility_flags,
    r2Buckets: Object.fromEntries(config.r2_buckets.map(({ binding, bucket_name }) => [binding, bucket_name])),
    datasets: Object.fromEntries(config.analytics_engine_datasets.map(({ binding, dataset = binding }) => [binding, dataset])),
    vars: Object.fromEntries(Object.entries(vars).map(([name, { value }]) => [name, value])),
  };
}
