"""Pickles made by hand, and those that run code in Python's own machine: what every reader of checkpoints must refuse."""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = [
    "ATTACKS",
    "CODE",
    "EXEC",
    "LINEAR",
    "MAPPED",
    "RUN",
    "WITNESS",
    "RunsCode",
    "call",
    "items",
    "mapping",
    "named",
    "number",
    "raw",
    "registered",
    "stacked",
    "storage",
    "stored",
    "tensor",
    "text",
    "whole",
]

WITNESS = "witness-of-executed-code"  # a file in the working folder

# Pickles by hand: each function returns the instructions that leave one value on the stack.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stacked(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def items(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def mapping(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def call(target: bytes, *arguments: bytes) -> bytes:
    return target + items(*arguments) + b"R"


def whole(body: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({WITNESS!r}, 'w').close()",)


def legacy_file(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def storage(body: bytes | None = None, *, count: int = 2, values: bytes = b"\0" * 8, little_endian: bool = True) -> bytes:
    """Return what torch writes for two float32 numbers, with ``body`` as its description."""
    body = body or items(text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), number(count), b"N") + b"Q"
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian})
    start = b"".join(pickle.dumps(part, 2) for part in parts)
    return start + whole(body, 2) + pickle.dumps(["0"], 2) + struct.pack("<q", count) + values


def stored(*arguments: Any, **keywords: Any) -> bytes:
    return call(named("torch.storage", "_load_from_bytes"), raw(storage(*arguments, **keywords)))


def tensor(
    held: bytes | None = None, *, offset: int = 0, size: tuple[int, ...] = (2,), stride: tuple[int, ...] = (1,)
) -> bytes:
    layout = (items(*map(number, size)), items(*map(number, stride)))
    return call(named("torch._utils", "_rebuild_tensor_v2"), held or stored(), number(offset), *layout, b"\x89", b"N")


CODE = text(f"open({WITNESS!r}, 'w').close()")
RUN = text(f"touch {WITNESS}")
SYSTEM, EXEC = named(os.name, "system"), named("builtins", "exec")
LINEAR = named("torch.nn.modules.linear", "Linear") + b")\x81"
MAPPED = named("builtins", "map") + items(EXEC, b"]" + CODE + b"a") + b"\x81"  # runs the code when something iterates over it
IMPORTED = call(named("importlib", "import_module"), text("os"))

# Programs that run code in Python's own machine, and what their refusal names.
ATTACKS: dict[str, tuple[bytes, str]] = {
    "os.system": (call(named("os", "system"), RUN), "os.system"),
    "os.system by STACK_GLOBAL": (call(stacked("os", "system"), RUN), "os.system"),
    "os.system by INST": (b"(" + RUN + b"ios\nsystem\n", "os.system"),
    "os.system by OBJ": (b"(" + SYSTEM + RUN + b"o", "posix.system"),
    "os.system by NEWOBJ": (named("builtins", "tuple") + items(MAPPED) + b"\x81", "builtins.tuple"),
    "os.system by NEWOBJ_EX": (named("builtins", "tuple") + items(MAPPED) + b"}\x92", "builtins.tuple"),
    "os.system by a memo": (SYSTEM + b"\x94" + b"0" + call(b"h\0", RUN), "posix.system"),
    "builtins.exec": (call(EXEC, CODE), "builtins.exec"),
    "builtins.exec of Python 2": (b"\x80\x02" + call(named("__builtin__", "eval"), CODE), "__builtin__.eval"),
    "builtins.eval": (call(named("builtins", "eval"), CODE), "builtins.eval"),
    "builtins.getattr": (call(call(named("builtins", "getattr"), IMPORTED, text("system")), RUN), "builtins.getattr"),
    "importlib": (
        IMPORTED + b"0" + call(call(call(named("operator", "attrgetter"), text("system")), IMPORTED), RUN),
        "importlib.import_module",
    ),
    "operator.attrgetter": (call(call(call(named("operator", "attrgetter"), text("system")), IMPORTED), RUN), "operator.attrg"),
    "operator.methodcaller": (
        call(call(named("operator", "methodcaller"), text("touch")), call(named("pathlib", "Path"), text(WITNESS))),
        "operator.methodcaller",
    ),
    "functools.partial": (call(call(named("functools", "partial"), SYSTEM, RUN)), "functools.partial"),
    "functools.reduce": (call(named("functools", "reduce"), EXEC, b"](" + CODE + b"}e"), "functools.reduce"),
    "pathlib.Path.touch": (
        call(stacked("pathlib", "Path.touch"), call(named("pathlib", "Path"), text(WITNESS))),
        "pathlib.Path.touch",
    ),
    "dots behind a known name": (
        call(stacked("collections", "OrderedDict.__init__"), call(stacked("collections", "OrderedDict")), MAPPED),
        "collections.OrderedDict.__init__",
    ),
    "dots behind a module of torch": (
        call(stacked("torch.nn.modules.module", "torch.os.system"), RUN),
        "torch.nn.modules.module.torch.os.system",
    ),
    "timeit": (call(named("timeit", "timeit"), CODE, text("pass"), named("time", "time"), number(1)), "timeit.timeit"),
    "numpy.testing": (call(named("numpy.testing", "runstring"), CODE, b"}"), "numpy.testing.runstring"),
    "subprocess": (
        call(named("subprocess", "check_output"), b"](" + text("touch") + text(WITNESS) + b"e"),
        "subprocess.check_o",
    ),
    "within the state of a record": (LINEAR + mapping(weight=call(EXEC, CODE)) + b"b", "builtins.exec"),
    "as an entry of a dictionary": (
        call(named("collections", "OrderedDict")) + text("a") + call(EXEC, CODE) + b"s",
        "builtins.exec",
    ),
    "in place of modules": (call(named("torch.nn.modules.container", "ModuleList"), MAPPED), "builtins.map"),
    "a state for a function": (
        named("torch.storage", "_load_from_bytes") + b"N}" + text("__code__") + call(EXEC, CODE) + b"s\x86b",
        "builtins.exec",
    ),
    "what is thrown away": (call(EXEC, CODE) + b"0N", "builtins.exec"),
    "a stored storage": (call(named("torch.storage", "_load_from_bytes"), raw(legacy_file(RunsCode()))), "__builtin__.exec"),
    "a stored storage in another form": (
        call(named("torch.storage", "_load_from_bytes"), raw(pickle.dumps(RunsCode()))),
        "exec",
    ),
    "the registry of extensions, 1 byte": (call(b"\x82\xf0", CODE), "EXT1"),
    "the registry of extensions, 2 bytes": (call(b"\x83\xf0\0", CODE), "EXT2"),
    "the registry of extensions, 4 bytes": (call(b"\x84\xf0\0\0\0", CODE), "EXT4"),
}


@contextlib.contextmanager
def registered(value: Callable[..., Any], code: int) -> Iterator[None]:
    module, name = value.__module__, value.__name__
    copyreg.add_extension(module, name, code)
    try:
        yield
    finally:
        copyreg.remove_extension(module, name, code)
