"""The pickler: cloudpickle's, with rules of this library. No other module imports cloudpickle.

    Pickler ──► a pickle ──► `Unpickler` or `pickle.loads`
                   └── refers to the functions of `rebuilding.py` by name

The rules that it adds to cloudpickle's:

- A code object keeps the name of its file, and its pickle includes its source lines.
- Locks and similar objects, and caches of functions, that a program has at module level are created anew in each process,
  as in a process pool, if a function or a class refers to them. As an argument or a result they are refused, as in a pool.
- A class of `__main__` is loaded as the program's own class in a process that has that program.
- An open file is refused. An array is writable after it is loaded.

Importing this module imports cloudpickle; `pickling.py` imports this module at its first use.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import io
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from enum import Enum
from pickle import PickleBuffer
from types import CodeType, FunctionType
from typing import Any

import cloudpickle

from starburst_executor import source
from starburst_executor.protocol import rebuilding
from starburst_executor.protocol.pickling import PROTOCOL
from starburst_executor.protocol.rebuilding import Mark, token_of
from starburst_executor.protocol.references import ResultRef, SharedRef

__all__ = ["Pickler", "modules_by_value"]

_CACHED = type(functools.lru_cache(int))
_DISPATCH_CODE = functools.singledispatch(int).__code__  # type: ignore[attr-defined]  # typeshed hides that it is a plain function


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles functions, classes and modules by value if they cannot be found by name.

    Args:
        is_program: Whether the pickled object is part of the program: a function with everything that it refers to.
            Otherwise it is data.
        buffer_callback: As for the standard library's pickler.
        all_buffers: Whether the memory of every array is to go to `buffer_callback`, also of those that NumPy would copy into the pickle.

    Attributes:
        refs: The shared values and results to which the pickles refer.
    """

    def __init__(
        self,
        file: Any,
        *,
        is_program: bool = False,
        buffer_callback: Callable[[PickleBuffer], object] | None = None,
        all_buffers: bool = False,
    ) -> None:
        super().__init__(file, PROTOCOL, buffer_callback)
        self.all_buffers = all_buffers
        self.refs: list[SharedRef | ResultRef] = []
        self._is_program = is_program
        self._depth = int(is_program)  # of functions and classes around the object that is being pickled
        # Nested code objects whose source has been pickled with the outer code; kept, so that no other object gets their ids.
        self._covered: dict[int, CodeType] = {}
        if (numpy := sys.modules.get("numpy")) is not None and hasattr(numpy, "ndarray"):
            _RULES.setdefault(numpy.ndarray, _array)
            _RULES.setdefault(numpy.memmap, _mapped_array)

    def reducer_override(self, obj: Any) -> Any:
        """Return how to rebuild an object; NotImplemented to use the standard library's way."""
        rule = _RULES.get(type(obj))
        reduced = NotImplemented if rule is None else rule(self, obj)
        if reduced is NotImplemented:
            reduced = super().reducer_override(obj)
            if reduced is not NotImplemented:
                reduced = self._by_value(obj, reduced)
        return reduced

    def _by_value(self, obj: Any, reduced: Any) -> Any:
        """Apply this library's rules to cloudpickle's reduction of a function or class that is pickled by value."""
        if len(reduced) != 6:  # noqa: PLR2004 - with a state and its setter
            return reduced
        make, arguments, state, _, _, complete = reduced
        if isinstance(obj, type) and "__slots__" in vars(obj) and not issubclass(obj, (Enum, tuple)):
            arguments, state = _with_slots(obj, arguments, state)
        if not self._is_program:
            state, complete = (Mark(1), complete, state, Mark(-1)), rebuilding.set_inside
        if isinstance(obj, type) and obj.__module__ == "__main__" and "<locals>" not in obj.__qualname__:
            arguments = (token_of(obj), obj.__qualname__, issubclass(obj, Enum), make, *arguments)
            make, state, complete = rebuilding.main_class, (complete, state), rebuilding.set_class_state
        return make, arguments, state, None, None, complete

    def mark(self, mark: Mark) -> tuple[Any, ...]:
        """Count the depth: a function or class begins or ends at this mark."""
        self._depth += mark.step
        return int, ()

    def code(self, code: CodeType) -> tuple[Any, ...]:
        """Reduce code with its file's name, which some versions of cloudpickle omit, and its source."""
        make, fields = self.dispatch_table[CodeType](code)
        lines = "" if id(code) in self._covered else source.source_of(code)
        self._covered.update((id(inner), inner) for inner in source.nested(code))
        # Interned, so that all code objects of a file share one name object: equal functions then have equal pickles.
        return rebuilding.make_code, (make, fields, sys.intern(code.co_filename), lines)

    def ref(self, ref: SharedRef | ResultRef) -> tuple[Any, ...]:
        """Note a shared value or a result, and have it pickled as it is."""
        reduced = ref.__reduce__()
        self.refs.append(ref)
        return reduced

    def anew(self, obj: Any, make: Callable[..., Any], *arguments: Any) -> Any:
        """Reduce an object of the program so that each process makes its own; in data the standard library refuses it."""
        return (rebuilding.fresh, (token_of(obj), make, *arguments)) if self._depth > 0 else NotImplemented

    def emptied(self, obj: Any) -> Any:
        """Like `anew`, for objects without arguments or a hash: each pickle that has one gives another object."""
        return (type(obj), ()) if self._depth > 0 else NotImplemented


def _with_slots(kind: type, arguments: tuple[Any, ...], state: Any) -> tuple[Any, Any]:
    """Return arguments and state for a class with its own slots; cloudpickle would give its instances a `__dict__`."""
    constructor, name, bases, namespace, *rest = arguments
    attributes, more = state
    slots = vars(kind)["__slots__"]
    namespace = {**namespace, "__slots__": slots if isinstance(slots, (str, dict)) else tuple(slots)}
    return (constructor, name, bases, namespace, *rest), (
        {key: value for key, value in attributes.items() if key != "__slots__"},
        more,
    )


def _cache(_: Pickler, function: Any) -> Any:
    if _is_found_by_name(function):
        return NotImplemented
    parameters = function.cache_parameters()
    return rebuilding.cached, (token_of(function), function.__wrapped__, parameters["maxsize"], parameters["typed"])


def _function(_: Pickler, function: FunctionType) -> Any:
    if function.__code__ is not _DISPATCH_CODE or _is_found_by_name(function):
        return NotImplemented
    registry = function.registry  # type: ignore[attr-defined]  # set by singledispatch
    wrapped = getattr(function, "__wrapped__", registry[object])
    return (
        rebuilding.dispatching,
        (token_of(function), wrapped),
        list(registry.items()),
        None,
        None,
        rebuilding.register_all,
    )


def _is_found_by_name(function: Any) -> bool:
    """Return whether a function can be found by its name in a module other than the program itself."""
    name = getattr(function, "__module__", None)
    target = sys.modules.get(name) if isinstance(name, str) and name not in ("__main__", "__mp_main__") else None
    if target is None or name in cloudpickle.list_registry_pickle_by_value():
        return False
    for part in function.__qualname__.split("."):
        target = getattr(target, part, None)
    return target is function


def _file(_: Pickler, file: io.TextIOWrapper) -> Any:
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name, None) or file is getattr(sys, f"__{name}__", None):
            return getattr, (sys, name)
    # cloudpickle would pickle the file's contents.
    raise TypeError("cannot pickle '_io.TextIOWrapper' object")


def _array(pickler: Pickler, array: Any) -> Any:
    """Reduce a read-only array through a writable view of its memory, because a loaded array is as writable as the pickled one."""
    flags = array.flags
    if array.dtype.hasobject:
        return NotImplemented
    if not (flags.c_contiguous or flags.f_contiguous):
        return array.copy("C").__reduce_ex__(PROTOCOL) if pickler.all_buffers else NotImplemented
    if flags.writeable:
        return NotImplemented
    if not array.nbytes:
        return array.copy("K").__reduce_ex__(PROTOCOL)
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    order = "C" if flags.c_contiguous else "F"
    return type(array)(array.shape, array.dtype, memory, 0, None, order).__reduce_ex__(PROTOCOL)


def _mapped_array(pickler: Pickler, array: Any) -> Any:
    """Reduce an array in a file as a plain one, whose memory is a buffer."""
    if not pickler.all_buffers:
        return NotImplemented
    plain = array.view(sys.modules["numpy"].ndarray)
    reduced = _array(pickler, plain)
    return plain.__reduce_ex__(PROTOCOL) if reduced is NotImplemented else reduced


def _variable(pickler: Pickler, variable: contextvars.ContextVar[Any]) -> Any:
    try:
        default = [contextvars.Context().run(variable.get)]
    except LookupError:
        default = []
    return pickler.anew(variable, rebuilding.variable, variable.name, *default)


# By exact type. An object with a state is rebuilt with its initial state, as far as that can be determined.
_RULES: dict[type, Callable[[Pickler, Any], Any]] = {
    CodeType: Pickler.code,
    Mark: Pickler.mark,
    ResultRef: Pickler.ref,
    SharedRef: Pickler.ref,
    FunctionType: _function,
    _CACHED: _cache,
    io.TextIOWrapper: _file,
    contextvars.ContextVar: _variable,
    type(threading.Lock()): lambda pickler, lock: pickler.anew(lock, threading.Lock),
    type(threading.RLock()): lambda pickler, lock: pickler.anew(lock, threading.RLock),
    threading.Condition: lambda pickler, condition: pickler.anew(condition, threading.Condition, condition._lock),  # noqa: SLF001 - its argument
    threading.Semaphore: lambda pickler, it: pickler.anew(it, threading.Semaphore, it._value),  # noqa: SLF001 - its argument
    threading.BoundedSemaphore: lambda pickler, it: pickler.anew(it, threading.BoundedSemaphore, it._initial_value),  # noqa: SLF001 - its argument
    threading.Event: lambda pickler, event: pickler.anew(event, threading.Event),
    threading.Barrier: lambda pickler, it: pickler.anew(it, threading.Barrier, it._parties, it._action, it._timeout),  # noqa: SLF001 - its argument
    threading.local: lambda pickler, local: pickler.anew(local, threading.local),
    queue.SimpleQueue: lambda pickler, it: pickler.anew(it, queue.SimpleQueue),
    weakref.WeakKeyDictionary: lambda pickler, it: pickler.emptied(it),
    weakref.WeakValueDictionary: lambda pickler, it: pickler.emptied(it),
}


# Return the modules that are registered with cloudpickle for pickling by value. Every submit calls it, so no layer of ours is around it.
modules_by_value = cloudpickle.list_registry_pickle_by_value
