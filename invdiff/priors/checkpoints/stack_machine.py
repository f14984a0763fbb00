"""A stack machine for pickles, without the instructions that make pickles dangerous.

A pickle is a program, and Python's unpickler imports and calls whatever the program names. This machine runs the same
programs, but imports nothing, reads no attribute and calls only the few builders it is given. Python's unpickler with a custom
``find_class`` is not enough: its BUILD instruction sets attributes of any object on the stack, and ten bytes can make it fill
the memory.
"""

from __future__ import annotations

import io
import os
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["Name", "Other", "ProgramFile", "Refused", "StackMachine", "exactly", "hashable", "pairs"]


class Refused(ValueError):  # noqa: N818 - a decision, not a mistake
    """The file requests something that could run code. The message is one line, without the path.

    Args:
        what: The request; untrusted text is shortened and made printable.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"holds {ascii(what[:100])[1:-1]}, which could run code when read: it was refused, and nothing was executed. "
            "If you trust the file, save the weights alone: torch.save(model.state_dict(), ...)."
        )


class Other(ValueError):  # noqa: N818 - a statement about a file, complete but for its path
    """The file is no checkpoint of plain tensors, or asks for too much. The message says so, in one line."""


@dataclass(frozen=True, eq=False)
class Name:
    """A name that pickles may use, as an entry of the stack.

    Attributes:
        text: Module and name.
        build: Function called in its place (REDUCE).
        new: Function that returns an object without state (NEWOBJ).
    """

    text: str
    build: Callable[..., Any] | None = None
    new: Callable[[], Any] | None = None


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
LITERALS = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
}


class ProgramFile(io.BufferedReader):
    """An open file of pickles. Reads end where the file does, whatever length the file claims, without memory for the claim.

    Not a mapped file: if another process shortens a mapped file, the system kills the process that reads it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path), PAGE)
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size < PAGE:
            left = max(0, self.size - super().tell())
            size = left if size is None or size < 0 else min(size, left)
        return super().read(size)

    def tell(self) -> int:
        """Return 0: ``pickletools`` asks before every instruction and needs no answer, which would cost a system call."""
        return 0


PAGE = 2**16
GETS = {"GET", "BINGET", "LONG_BINGET"}
CONTAINERS = {*TUPLES, *EMPTY, "MARK", "TUPLE", "LIST", "DICT", "FROZENSET"}
# A checkpoint of a thousand tensors has 50,000 instructions, which make 10,000 containers. An empty set takes one byte
# of a program and 200 bytes of memory.
MOST_INSTRUCTIONS, MOST_CONTAINERS = 1_000_000, 500_000


class StackMachine:
    """Run the program of one pickle. A damaged program may raise any subclass of ``Exception``.

    Args:
        stream: Stream at the start of the program; on return it is at the end.
        size: Size of the file in bytes. Calls get at most three times as much data in all, so that no short program can fill
            the memory.
        find: Returns the object for a name, ``None`` for a name that is refused.
        fill: Sets the state of an object (BUILD).
        stored: Returns the object for a persistent identity. Default: persistent identities are refused.
    """

    def __init__(
        self,
        stream: IO[bytes],
        size: int,
        *,
        find: Callable[[str], Any],
        fill: Callable[[Any, Any], None],
        stored: Callable[[Any], Any] | None = None,
    ) -> None:
        self.stream, self.left, self.find, self.fill, self.stored = stream, 3 * size, find, fill, stored
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.instructions = self.containers = 0

    def run(self) -> Any:
        """Run the program and return the top of the stack."""
        argument: Any
        for opcode, argument, _ in pickletools.genops(self.stream):
            self.instructions += 1
            name = opcode.name
            if name in LITERALS:
                self.stack.append(argument)
            elif name in GETS:
                self.stack.append(self.memo[argument])
            else:
                self._step(name, argument)
            if self.instructions > MOST_INSTRUCTIONS:
                raise Other(f"has more than {MOST_INSTRUCTIONS:,} instructions, and weights need few: it is not read")
        return self.stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in CONTAINERS:
            self.containers += 1
            if self.containers > MOST_CONTAINERS:
                raise Other(f"makes more than {MOST_CONTAINERS:,} containers, and weights need few: it is not read")
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case _ if name in EMPTY:
                stack.append(EMPTY[name]())
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self._above_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE" if len(self.memo) < MOST_CONTAINERS:
                self.memo[len(self.memo)] = stack[-1]
            case "MEMOIZE":
                raise Other(f"remembers more than {MOST_CONTAINERS:,} objects, and weights need few: it is not read")
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
                self._make(name, self._above_mark())
            case _ if name in TUPLES:
                self._make("TUPLE", [stack.pop() for _ in range(TUPLES[name])][::-1])
            case "APPENDS" | "SETITEMS" | "ADDITEMS":
                self._extend(name, self._above_mark())
            case "APPEND":
                self._extend("APPENDS", [stack.pop()])
            case "SETITEM":
                self._extend("SETITEMS", [stack.pop() for _ in range(2)][::-1])
            case "GLOBAL":
                stack.append(self._named(*argument.partition(" ")[::2]))
            case "STACK_GLOBAL":
                text, module = stack.pop(), stack.pop()
                stack.append(self._named(module, text))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(self._call(stack.pop(), arguments))
            case "NEWOBJ":
                arguments = exactly(stack.pop(), tuple)
                stack.append(self._create(stack.pop(), len(arguments)))
            case "NEWOBJ_EX":
                keywords, arguments = exactly(stack.pop(), dict), exactly(stack.pop(), tuple)
                stack.append(self._create(stack.pop(), len(arguments) + len(keywords)))
            case "BUILD":
                state = stack.pop()
                if type(state) is tuple:  # the state of an array, whose values are copied
                    self._spend(state)
                self.fill(stack[-1], state)
            case "BINPERSID" if self.stored is not None:
                stack.append(self.stored(stack.pop()))
            case "INST":
                raise Refused(argument.replace(" ", "."))
            case _:  # OBJ, EXT1, EXT2, EXT4, PERSID, BINPERSID, NEXT_BUFFER, READONLY_BUFFER
                raise Refused(f"the instruction {name}")

    def _above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _make(self, name: str, items: list[Any]) -> None:
        made: Any = items
        if name == "TUPLE":
            made = tuple(items)
        elif name == "DICT":
            made = pairs(items)
        elif name == "FROZENSET":
            made = frozenset(map(hashable, items))
        self.stack.append(made)

    def _extend(self, name: str, items: list[Any]) -> None:
        # Exactly these types, so that the file cannot call the methods of any other.
        if name == "APPENDS":
            exactly(self.stack[-1], list).extend(items)
        elif name == "SETITEMS":
            exactly(self.stack[-1], dict).update(pairs(items))
        else:
            exactly(self.stack[-1], set).update(map(hashable, items))

    def _named(self, module: Any, name: Any) -> Any:
        text = f"{exactly(module, str)}.{exactly(name, str)}"
        found = None if "." in name else self.find(text)  # a name with dots would be an attribute of an attribute
        if found is None:
            raise Refused(text)
        return found

    def _call(self, target: Any, arguments: Any) -> Any:
        build = exactly(target, Name).build
        if build is None:
            raise Refused(f"a call of {target.text}")
        self._spend(exactly(arguments, tuple))
        return build(*arguments)

    def _create(self, target: Any, arguments: int) -> Any:
        new = exactly(target, Name).new
        if new is None or arguments:
            raise Refused(f"an object of {target.text} made from arguments")
        return new()

    def _spend(self, arguments: tuple[Any, ...]) -> None:
        self.left -= sum(len(each) for each in arguments if isinstance(each, (str, bytes, bytearray, list, tuple, dict)))
        if self.left < 0:
            raise ValueError("it builds more data than the file holds")


def exactly(value: Any, kind: type) -> Any:
    """Return ``value``, which must be of exactly this type.

    Raises:
        TypeError: If it is of another type, including a subclass.
    """
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def hashable(key: Any) -> Any:
    """Return ``key``, which must be a number, a string, bytes or ``None``.

    Tuples are refused, because hashing a very deeply nested tuple crashes the process.

    Raises:
        TypeError: If it is of another type.
    """
    if not isinstance(key, (str, bytes, int, float, type(None))):
        raise TypeError(f"a key of type {type(key).__name__}")
    return key


def pairs(items: list[Any]) -> dict[Any, Any]:
    """Return the dictionary of alternating keys and values."""
    return {hashable(key): value for key, value in zip(items[::2], items[1::2], strict=True)}
