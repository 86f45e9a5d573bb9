"""A dry run of a checkpoint's pickle, with inert values, before torch's loader sees the file.

Here a name is a text and a call a record, so a file can be followed to its end without making anything: whatever passes
holds only names that a model needs, calls with the arguments torch.save writes, and tensors inside their storages.
Written from the protocol as `pickletools` documents it: the 34 instructions that torch's loader and protocol 2 share.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable

from .allowed import (
    AGAIN,
    CALLS,
    Made,
    Name,
    Rejected,
    Storage,
    becomes_stand_in,
    called,
    hashable,
    instance,
    is_known,
    need,
    storage,
)

# Ten times what the largest known file has, or more; README.md has the figures. torch's loader looks a name up among
# all names for each name and object, so that both limits together bound its time.
MAX_INSTRUCTIONS = 1_000_000
MAX_NAMES = 300  # different classes that become stand-ins
MAX_OBJECTS = 40_000  # their objects, the states of these, and how often a class is named
MAX_REFUSED = 20  # names that are collected for the message
MAX_NAME = 300  # bytes of a module's or class's name
BYTE, SHORT, INT, LENGTH, FLOAT = map(struct.Struct, ("<B", "<H", "<i", "<I", ">d"))


class DryRun:
    """Follows one pickle of `data` from byte `start`. After `run`: result, at (the byte behind it), names, storages."""

    def __init__(self, data: bytes, start: int = 0):
        self.data, self.at = data, start
        self.stack: list = []
        self.below: list[list] = []  # the stacks under each open mark
        self.memo: dict[int, object] = {}
        self.names: set[str] = set()  # those that become stand-ins
        self.refused: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self.objects = 0  # names, objects of stand-ins, and states
        self.copied = 0  # values that torch's loader copies for calls
        self.result: object = None

    def run(self) -> DryRun:
        """Follow it to its end. Raises Rejected for what a model file does not need; all refused names are listed."""
        try:
            self._follow()
        except Rejected:
            if not self.refused:
                raise
        except (IndexError, KeyError, UnicodeDecodeError, struct.error) as error:
            if not self.refused:
                raise Rejected(f"is damaged: its pickle is cut off or does not hold together. {AGAIN}") from error
        if self.refused:
            shown = ", ".join(sorted(self.refused)[:5]) + (" and others" if len(self.refused) > 5 else "")
            raise Rejected(
                f"asks for {shown}, which a YOLO model does not need, and was not read. "
                "Open it with no other program unless you trust its maker: it can run code."
            )
        return self

    def _follow(self) -> None:
        data, instruction_of = self.data, INSTRUCTIONS.get
        for _ in range(MAX_INSTRUCTIONS):
            code = data[self.at]
            self.at += 1
            instruction = instruction_of(code)
            if instruction is not None:
                instruction(self)
            elif code == STOP:
                self.result = self.stack.pop()
                return
            else:
                opcode = pickletools.code2op.get(chr(code))
                raise Rejected(
                    f"has the pickle instruction {opcode.name if opcode else code}, which torch.save does not "
                    "write. Save it again with torch.save and its default protocol."
                )
        raise Rejected(f"has more than {MAX_INSTRUCTIONS} pickle instructions, a model has a hundred thousand. {AGAIN}")

    def take(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        need(self.at <= len(self.data), "has a pickle that ends in the middle")
        return self.data[start : self.at]

    def number(self, form: struct.Struct) -> int | float:
        start, self.at = self.at, self.at + form.size
        return form.unpack_from(self.data, start)[0]  # struct.error beyond the end

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + MAX_NAME)
        need(end >= 0, "has a class name without an end")
        return self.take(end + 1 - self.at)[:-1].decode("utf-8")

    def count_object(self) -> None:
        """Count one more name, object or state. Raises Rejected beyond MAX_OBJECTS."""
        self.objects += 1
        need(self.objects <= MAX_OBJECTS, f"has more than {MAX_OBJECTS} objects")

    def count_copies(self, function: object, arguments: tuple) -> None:
        """Count what a call copies. Raises Rejected where values are used again and again.

        In a file of torch.save each value is an argument once, and a value takes at least a byte.
        """
        self.copied += len(arguments)
        self._check_copies()
        if isinstance(function, Name) and function.full in CALLS:  # sets and bytes
            self.copied += sum(len(value) for value in arguments if type(value) in (list, str))
            self._check_copies()

    def _check_copies(self) -> None:
        need(self.copied <= len(self.data), "uses its values as arguments again and again")

    def pop_mark(self) -> list:
        items, self.stack = self.stack, self.below.pop()
        return items


def _protocol(run: DryRun) -> None:
    protocol = run.number(BYTE)
    if protocol != 2:
        raise Rejected(f"is pickled with protocol {protocol}, not 2. Save it again with torch.save and its defaults.")


def _name(run: DryRun) -> None:
    full = f"{run.line()}.{run.line()}"
    if becomes_stand_in(full):
        run.count_object()
        run.names.add(full)
        need(len(run.names) <= MAX_NAMES, f"asks for more than {MAX_NAMES} classes")
    elif not is_known(full):
        run.refused.add(full)
        need(len(run.refused) <= MAX_REFUSED, "asks for many names")  # the message lists them
    run.stack.append(Name(full))


def _build(run: DryRun) -> None:
    state, target = run.stack.pop(), run.stack[-1]
    stateful = isinstance(target, Made) and target.kind in ("stand-in", "ordered dict")
    need(stateful, "gives a state to something that has none")
    run.count_object()
    if target.kind == "ordered dict":  # an attribute such as `items` would take the place of the method
        harmless = isinstance(state, Made) and state.kind == "dict" and state.only_metadata
        need(harmless, "changes the methods of a dict")


def _extend(target: object, items: list) -> None:
    need(type(target) is list, "appends to something that is not a list")
    target.extend(items)


def _set_items(target: object, items: list) -> None:
    fits = isinstance(target, Made) and target.kind in ("dict", "ordered dict") and len(items) % 2 == 0
    need(fits, "sets items of something that is not a dict")
    need(all(map(hashable, items[::2])), "has a dict whose keys are not words or numbers")
    target.only_metadata = target.only_metadata and all(key == "_metadata" for key in items[::2])


def _with_top(change: Callable[[object, list], None], count: int | None) -> Callable[[DryRun], None]:
    """Changes what lies under `count` items, or under all items since the mark."""

    def instruction(run: DryRun) -> None:
        items = run.pop_mark() if count is None else _last(run, count)
        change(run.stack[-1], items)

    return instruction


def _last(run: DryRun, count: int) -> list:
    if len(run.stack) < count:
        raise IndexError
    items = run.stack[-count:]
    del run.stack[-count:]
    return items


def _get(run: DryRun) -> None:
    run.stack.append(run.memo[run.data[run.at]])
    run.at += 1


def _called_with(make: Callable[[object, object], Made]) -> Callable[[DryRun], None]:
    """Takes a function and its arguments from the stack, and puts the result of `make` there."""

    def instruction(run: DryRun) -> None:
        stack = run.stack
        arguments, function = stack.pop(), stack.pop()
        if type(arguments) is tuple:
            run.count_copies(function, arguments)
        made = make(function, arguments)
        if made.kind == "stand-in":
            run.count_object()
        stack.append(made)

    return instruction


def _push(make: Callable[[DryRun], object]) -> Callable[[DryRun], None]:
    def instruction(run: DryRun) -> None:
        made = make(run)  # first: it may change which stack is on top
        run.stack.append(made)

    return instruction


def _open_mark(run: DryRun) -> None:
    run.below.append(run.stack)
    run.stack = []


def _number(form: struct.Struct) -> Callable[[DryRun], None]:
    read, size = form.unpack_from, form.size

    def instruction(run: DryRun) -> None:
        run.stack.append(read(run.data, run.at)[0])
        run.at += size

    return instruction


def _put(form: struct.Struct) -> Callable[[DryRun], None]:
    read, size = form.unpack_from, form.size

    def instruction(run: DryRun) -> None:
        run.memo[read(run.data, run.at)[0]] = run.stack[-1]
        run.at += size

    return instruction


def _constant(value: object) -> Callable[[DryRun], None]:
    def instruction(run: DryRun) -> None:
        run.stack.append(value)

    return instruction


STOP = ord(".")
INSTRUCTIONS: dict[int, Callable[[DryRun], None]] = {
    ord(code): instruction
    for code, instruction in {
        "\x80": _protocol,
        "c": _name,
        "b": _build,
        "(": _open_mark,
        "R": _called_with(called),
        "\x81": _called_with(instance),
        "Q": _push(lambda run: storage(run.stack.pop(), run.storages)),
        "a": _with_top(_extend, 1),
        "e": _with_top(_extend, None),
        "s": _with_top(_set_items, 2),
        "u": _with_top(_set_items, None),
        "t": _push(lambda run: tuple(run.pop_mark())),
        "\x85": _push(lambda run: tuple(_last(run, 1))),
        "\x86": _push(lambda run: tuple(_last(run, 2))),
        "\x87": _push(lambda run: tuple(_last(run, 3))),
        ")": _constant(()),
        "N": _constant(None),
        "\x88": _constant(True),
        "\x89": _constant(False),
        "]": _push(lambda run: []),
        "}": _push(lambda run: Made("dict")),
        "J": _number(INT),
        "K": _number(BYTE),
        "M": _number(SHORT),
        "G": _number(FLOAT),
        "\x8a": _push(lambda run: int.from_bytes(run.take(run.number(BYTE)), "little", signed=True)),
        "X": _push(lambda run: run.take(run.number(LENGTH)).decode("utf-8", "surrogatepass")),
        "h": _get,
        "j": _push(lambda run: run.memo[run.number(LENGTH)]),
        "q": _put(BYTE),
        "r": _put(LENGTH),
    }.items()
}
