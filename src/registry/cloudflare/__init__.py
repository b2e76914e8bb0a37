"""The adapter: the only package, beside `entry`, that knows `js`, `pyodide` and `workers`."""
