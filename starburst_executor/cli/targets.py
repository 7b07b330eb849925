"""Finds the function that a user names: `module:function` or `script.py:function`.

A script is run once in a process, as its import would, with a name other than `__main__`, whatever number of its functions is named; they and its
classes then travel by value, as those of `__main__` do. So workers get the script as it is now, although they may have run an earlier one.
"""

from __future__ import annotations

import importlib
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starburst_executor.errors import ConfigError

__all__ = ["load_module", "load_target"]

# As multiprocessing names a main module in its children: code under `if __name__ == "__main__"` does not run.
_NAME = "__mp_main__"
# Those that have run, by their path and text.
_scripts: dict[tuple[str, bytes], types.ModuleType] = {}


def load_target(target: str) -> Callable[..., Any]:
    """Return the function. Raises: ConfigError."""
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise ConfigError(f"not a function: {target!r}; write module:function or script.py:function")
    module = load_module(where)
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if function is None:
        known = sorted(one for one, value in vars(module).items() if callable(value) and not one.startswith("_"))
        raise ConfigError(f"no function {name!r} in {where}; there are {', '.join(known[:20]) or 'none'}")
    if not callable(function):
        raise ConfigError(f"not a function: {target!r} is of type {type(function).__name__}")
    return function  # type: ignore[no-any-return]  # it was found by name


def load_module(where: str) -> types.ModuleType:
    """Import a module by its name, or run a script by its path. Raises: ConfigError."""
    return _script(Path(where)) if where.endswith(".py") else _module(where)


def _module(name: str) -> types.ModuleType:
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # user code runs here
        raise ConfigError(f"the module {name} cannot be imported: {_said(error)}") from error


def _script(path: Path) -> types.ModuleType:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the script cannot be read: {error.strerror}: {path}") from error
    script = str(path.absolute())
    if (known := _scripts.get((script, source))) is not None:
        return known
    # Its folder is where it looks for modules, as if it had been started by itself.
    sys.path.insert(0, str(path.absolute().parent))
    module = types.ModuleType(_NAME)
    module.__file__ = script
    # What a script imports inside its functions is found by its source.
    sys.modules["__main__"].__file__ = script
    sys.modules[_NAME] = module
    try:
        code = compile(source, script, "exec", dont_inherit=True)
        exec(code, vars(module))  # noqa: S102 - the user's own script, which they asked to run
    except (Exception, SystemExit) as error:  # user code runs here
        guard = (
            '; put what runs it as a program under `if __name__ == "__main__"`' if isinstance(error, SystemExit) else ""
        )
        raise ConfigError(f"the script {path} cannot be run: {_said(error)}{guard}") from error
    finally:
        # Guarantee: what is not to be found by its name is pickled by value.
        sys.modules.pop(_NAME, None)
    _scripts[script, source] = module
    return module


def _said(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__) and not frame.filename.startswith("<frozen ")
    ]
    where = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
