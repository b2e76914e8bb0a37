"""What Cloudflare's glue does in Python around the user's module, as far as the module can notice.

Runs inside Pyodide, called by main.mjs. The originals are in workerd's src/pyodide/internal:
setup_python_search_path.py, topLevelEntropy/ and introspection.py.
"""

import errno
import importlib
import inspect
import os
import random
import site
import sys
from functools import wraps

from pyodide.code import relaxed_call
from pyodide.ffi import JsProxy, jsnull

OWN_FILES = "/session/metadata"
PYTHON_MODULES = f"{OWN_FILES}/python_modules"

RULE = "a module may use randomness, timers and I/O only while it handles an event, not while it is imported"

_originals = []  # (object, attribute name, value), to be put back before the first event
_started = False
_default = None


def prepare():
    """Set the search path (standard library, python_modules, own files), then close the sources of entropy."""
    sys.path[:] = [path for path in sys.path if path and "site-packages" not in path]
    sys.path += [PYTHON_MODULES, OWN_FILES]
    # The clock stands still, so no folder's modification time tells the finders that files were added.
    importlib.invalidate_caches()
    site.addsitedir(PYTHON_MODULES)

    # What a generator draws at start would be in the deployed snapshot, the same for every isolate.
    _replace(os, "urandom", _guarded("os.urandom", os.urandom))
    _replace(random, "_urandom", os.urandom)
    _replace(random.Random, "seed", _guarded_seed(random.Random.seed))
    for name in set(random.__all__) - {"Random", "SystemRandom"}:
        _replace(random, name, _guarded(f"random.{name}", getattr(random, name)))


def import_entry(name):
    """Import the user's entry module and keep its Default class."""
    global _default, python_from_rpc, python_to_rpc
    module = importlib.import_module(name)
    from workers import WorkerEntrypoint, python_from_rpc, python_to_rpc

    _default = getattr(module, "Default", None)
    if not (inspect.isclass(_default) and issubclass(_default, WorkerEntrypoint)):
        message = f"{name}.py defines no `class Default(WorkerEntrypoint)`"
        raise TypeError(message)


def find_variable(is_wanted):
    """Name the module-level or class-level variable whose JavaScript object `is_wanted` recognises."""
    for module_name, module in list(sys.modules.items()):
        if not (getattr(module, "__file__", None) or "").startswith(OWN_FILES):
            continue
        for path, value in _variables(module_name, vars(module)):
            if isinstance(value, JsProxy) and is_wanted(value):
                return path
    return None


def before_first_event():
    """Open the sources of entropy and give `random` a real seed."""
    global _started
    _started = True
    for target, name, value in _originals:
        setattr(target, name, value)
    random.seed()


def handle(ctx, env, method, relaxed, *args):
    """Call a method of a new Default, as Cloudflare's introspection wrapper does."""
    instance = _default(ctx, env)
    return _converted(getattr(instance, method), relaxed, args)


def describe(value):
    """Say in Python's words what a handler returned."""
    if value is jsnull:
        return "None"
    if isinstance(value, JsProxy):
        return f"a JavaScript {value.constructor.name}"
    return f"a {type(value).__name__}"


async def _converted(method, relaxed, args):
    args = [python_from_rpc(arg) for arg in args]
    result = relaxed_call(method, *args) if relaxed else method(*args)
    return python_to_rpc(await result if inspect.isawaitable(result) else result)


def _variables(prefix, namespace):
    for name, value in namespace.items():
        path = f"{prefix}.{name}"
        yield path, value
        if inspect.isclass(value) and value.__module__ == prefix:
            yield from _variables(path, vars(value))
        elif isinstance(value, dict) and not name.startswith("__"):
            yield from ((path, item) for item in value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield from ((path, item) for item in value)


def _replace(target, name, value):
    _originals.append((target, name, getattr(target, name)))
    setattr(target, name, value)


def _guarded(name, function):
    @wraps(function)
    def guard(*args, **kwargs):
        # `from random import choice` keeps this function for ever.
        if not _started:
            raise OSError(errno.EIO, f"Cannot use {name}() in the global scope: {RULE}")
        return function(*args, **kwargs)

    return guard


def _guarded_seed(seed):
    unseeded = _guarded("random.seed", seed)

    @wraps(seed)
    def guard(self, a=None, version=2):
        return unseeded(self, a, version) if a is None else seed(self, a, version)

    return guard
