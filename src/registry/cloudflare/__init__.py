"""The Cloudflare adapter: the only package, besides `entry`, that imports `js`, `pyodide` and `workers`."""
