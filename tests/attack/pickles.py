"""Checkpoints that are slow or large to open for their size, each made by a function of the number of its parts."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

ORDERED = b"ccollections\nOrderedDict\n)R"


def name(full: str) -> bytes:
    """The instruction that asks for a class or function."""
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """The instruction that makes a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """The instruction that makes a number of 8 bytes."""
    return b"\x8a\x08" + struct.pack("<q", value)


def small(value: int) -> bytes:
    """The instruction that makes a number of 4 bytes."""
    return b"J" + struct.pack("<i", value)


def numbers(values: Iterable[int]) -> bytes:
    """The instructions that make a tuple of numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def put(index: int) -> bytes:
    """The instruction that remembers the value on top."""
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    """The instruction that takes a remembered value."""
    return b"j" + struct.pack("<I", index)


def storage(key: str = "0", count: int = 2) -> bytes:
    """The instructions that make a storage of floats."""
    kind = text("storage") + name("torch.FloatStorage")
    return b"(" + kind + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(values: bytes, size: Iterable[int] = (2,), stride: Iterable[int] = (1,)) -> bytes:
    """The instructions that make a tensor of a storage."""
    arguments = values + number(0) + numbers(size) + numbers(stride) + b"\x89" + ORDERED
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"


def archive(path: Path, pickle: bytes, records: dict[str, bytes] | None = None) -> Path:
    """Write an archive as torch.save does, with a pickle and the storages it refers to."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle)
        file.writestr("x/byteorder", b"little")
        for key, data in (records or {}).items():
            file.writestr(f"x/data/{key}", data)
        file.writestr("x/version", b"3\n")
    return path


def checkpoint(path: Path, value: bytes, before: bytes = b"", records: dict[str, bytes] | None = None) -> Path:
    """Write a state dict of one tensor with a further entry. before: instructions that leave nothing but memories."""
    weight = text("model") + b"}" + text("model.0.weight") + tensor(storage()) + b"s"
    pickle = b"\x80\x02" + before + b"}" + weight + b"s" + text("more") + value + b"s."
    return archive(path, pickle, {"0": bytes(8), **(records or {})})


def listed(parts: Iterable[bytes]) -> bytes:
    """The instructions that make a list."""
    return b"](" + b"".join(parts) + b"e"


def entries(parts: Iterable[bytes]) -> bytes:
    """The instructions that make a dict with numbers as keys."""
    return b"}(" + b"".join(small(index) + part for index, part in enumerate(parts)) + b"u"


# Instructions: each value takes little; together they may take time or memory that grows with their square.


def single_items(count: int) -> bytes:
    """A dict that gets one item after the other."""
    return b"}" + b"".join(small(index) + b"Ns" for index in range(count))


def ordered_items(count: int) -> bytes:
    """An ordered dict that gets one item after the other."""
    return ORDERED + b"".join(small(index) + b"Ns" for index in range(count))


def class_names(count: int) -> bytes:
    """So many classes, and an object of each."""
    return listed(name(f"ultralytics.nn.c{index}.C") + b")\x81" for index in range(count))


def names_and_objects(names: int, objects: int) -> bytes:
    """Many classes, and many objects of one of them."""
    classes = [name(f"ultralytics.nn.c{index}.C") for index in range(names)]
    return listed([*classes, *([put(0)] if classes else []), *[get(0) + b")\x81"] * objects])


def states(names: int, objects: int) -> bytes:
    """Objects that get a state each."""
    classes = [name(f"ultralytics.nn.c{index}.C") for index in range(names)]
    return listed([*classes, put(0), *[get(0) + b")\x81}b"] * objects])


def repeated_states(names: int, count: int) -> bytes:
    """One object that gets a state again and again."""
    classes = [name(f"ultralytics.nn.c{index}.C") for index in range(names)]
    return listed([*classes, put(0), get(0) + b")\x81" + b"}b" * count])


def repeated_names(names: int, count: int) -> bytes:
    """Names that are asked for again and again."""
    classes = [name(f"ultralytics.nn.c{index}.C") for index in range(names)]
    return listed([*classes, *[name("ultralytics.nn.c0.C")] * count])


def refused_names(count: int) -> bytes:
    """Names that no model needs."""
    return listed(name(f"evil{index}.c") for index in range(count))


def memories(count: int) -> bytes:
    """Values that are remembered and taken again."""
    return listed(b"N" + put(index) + get(index) for index in range(count))


def long_tuples(count: int, times: int) -> bytes:
    """A long tuple in tuples."""
    return listed([b"(" + b"N" * count + b"t" + put(0), *[get(0) + b"\x85"] * times])


def arguments_again(count: int, times: int) -> bytes:
    """Objects that are all made with the same many arguments."""
    made = name("ultralytics.nn.c.C") + get(0) + b"\x81"
    return listed([b"(" + b"N" * count + b"t" + put(0), *[made] * times])


def sets_again(count: int, times: int) -> bytes:
    """Sets of one long list."""
    items = listed(small(index) for index in range(count)) + put(0)
    return listed([items, *[name("builtins.set") + get(0) + b"\x85R"] * times])


def bytes_again(length: int, times: int) -> bytes:
    """Bytes of one long text."""
    call = name("_codecs.encode") + get(0) + text("latin1") + b"\x86R"
    return listed([text("a" * length) + put(0), *[call] * times])


def nested_calls(count: int) -> bytes:
    """An object in the arguments of an object, and so on."""
    kind = name("ultralytics.nn.c.C") + put(0)
    return listed([kind, get(0) * count + b")" + b"R\x85" * (count - 1) + b"R"])


def nested_tuples(count: int) -> bytes:
    """A tuple in a tuple, and so on."""
    return b")" + b"\x85" * count


def nested_dicts(count: int) -> bytes:
    """A dict in a dict, and so on."""
    return b"}" + (text("a") + b"}") * count + b"s" * count


def nested_lists(count: int) -> bytes:
    """A list in a list, and so on."""
    return b"]" * count + b"a" * (count - 1)


def long_numbers(count: int) -> bytes:
    """Numbers of 255 bytes."""
    return listed([b"\x8a\xff" + b"\x7f" * 255] * count)


def widest_number(length: int) -> bytes:
    """One number of so many bytes."""
    return b"\x8b" + struct.pack("<I", length) + b"\x7f" * length


def _numpy_type(code: str) -> bytes:
    state = small(3) + text("<") + b"NNN" + small(-1) + small(-1) + b"K\0"
    return name("numpy.dtype") + b"(" + text(code) + b"\x89\x88tR(" + state + b"tb"


def arrays(count: int, dimensions: int) -> bytes:
    """numpy arrays without values and of many dimensions."""
    made = name("numpy.core.multiarray._reconstruct") + b")R" + b"(K\1" + get(1) + get(0) + b"\x89" + get(2) + b"tb"
    empty = name("_codecs.encode") + text("") + text("latin1") + b"\x86R" + put(2)
    shape = b"(" + b"K\0" * dimensions + b"t" + put(1)
    return entries([_numpy_type("f4") + put(0), shape, empty, listed([made] * count)])


def shared_arrays(length: int, count: int) -> bytes:
    """One numpy array in many places."""
    raw = name("_codecs.encode") + text("a" * length) + text("latin1") + b"\x86R"
    state = b"(K\1" + numbers([length]) + _numpy_type("u1") + b"\x89" + raw + b"tb"
    return listed([name("numpy.core.multiarray._reconstruct") + b")R" + state + put(0), *[get(0)] * count])


def views(count: int, values: int) -> bytes:
    """Tensors that all show the whole of one storage."""
    return listed([storage("1", values) + put(0), *[tensor(get(0), (values,))] * count])


def tensors_again(count: int) -> bytes:
    """Tensors that are made by the same arguments."""
    arguments = b"(" + storage() + number(0) + numbers([2]) + numbers([1]) + b"\x89" + ORDERED + b"t"
    return listed([arguments + put(0), *[name("torch._utils._rebuild_tensor_v2") + get(0) + b"R"] * count])


def empty_tensors(count: int) -> bytes:
    """Tensors of 16 dimensions of huge sizes, without values."""
    made = tensor(storage(), [0] + [2**47] * 15, [2**47] * 16)
    return listed([made] * count)


def in_records(path: Path, count: int) -> Path:
    """Write a state dict of so many tensors, each with a storage of its own."""
    parts = b"".join(text(f"model.0.w{index}") + tensor(storage(str(index))) for index in range(count))
    return archive(path, b"\x80\x02}(" + parts + b"u.", {str(index): bytes(8) for index in range(count)})


def unused_records(path: Path, count: int) -> Path:
    """Write an archive with so many members that nothing refers to."""
    return checkpoint(path, b"N", records={f"{index + 1}": b"" for index in range(count)})


def long_keys(path: Path, depth: int, count: int) -> Path:
    """Write a model whose modules and tensors have names of 199 letters: its keys are longer than the file."""

    def module(parts: bytes, children: bytes) -> bytes:
        made = name("ultralytics.nn.tasks.DetectionModel") + b")\x81}(" + text("_parameters") + parts
        return made + text("_buffers") + b"}" + text("_modules") + children + b"ub"

    weight = tensor(storage()) + put(0)
    leaves = (f"{index}".rjust(199, "a") for index in range(count))
    parts = b"}(" + b"".join(text(leaf) + (weight if not at else get(0)) for at, leaf in enumerate(leaves)) + b"u"
    model = module(parts, b"}")
    for _ in range(depth):
        model = module(b"}", b"}" + text("m" * 199) + model + b"s")
    return archive(path, b"\x80\x02}" + text("model") + model + b"s.", {"0": bytes(8)})


def _with(make: Callable[..., bytes], *sizes: int) -> Callable[[Path], Path]:
    return lambda path: checkpoint(path, make(*sizes))


# name -> function that writes the file; none is larger than 50 MB
FILES: dict[str, Callable[[Path], Path]] = {
    "60,000 single items": _with(single_items, 60_000),
    "300,000 single items": _with(single_items, 300_000),
    "300,000 ordered items": _with(ordered_items, 300_000),
    "250 class names": _with(class_names, 250),
    "20,000 class names": _with(class_names, 20_000),
    "2,000 names, 20,000 objects": _with(names_and_objects, 2_000, 20_000),
    "250 names, 20,000 objects": _with(names_and_objects, 250, 20_000),
    "1 name, 250,000 objects": _with(names_and_objects, 1, 250_000),
    "250 names, 10,000 states": _with(states, 250, 10_000),
    "1 name, 150,000 states": _with(states, 1, 150_000),
    "250 names, 300,000 repeated states": _with(repeated_states, 250, 300_000),
    "250 names, 300,000 repeated names": _with(repeated_names, 250, 300_000),
    "600,000 refused names": _with(refused_names, 600_000),
    "300,000 memories": _with(memories, 300_000),
    "long tuples": _with(long_tuples, 500_000, 200_000),
    "arguments again": _with(arguments_again, 300_000, 10_000),
    "sets again": _with(sets_again, 200_000, 10_000),
    "bytes again": _with(bytes_again, 4_000_000, 10_000),
    "100,000 nested calls": _with(nested_calls, 100_000),
    "900,000 nested tuples": _with(nested_tuples, 900_000),
    "200,000 nested dicts": _with(nested_dicts, 200_000),
    "400,000 nested lists": _with(nested_lists, 400_000),
    "60,000 long numbers": _with(long_numbers, 60_000),
    "a number of 10 MB": _with(widest_number, 10_000_000),
    "900 arrays of 60,000 dimensions": _with(arrays, 900, 60_000),
    "900 arrays of 16 dimensions": _with(arrays, 900, 16),
    "90,000 arrays of 16 dimensions": _with(arrays, 90_000, 16),
    "an array of 60 kB in 90,000 places": _with(shared_arrays, 60_000, 90_000),
    "40,000 views": lambda path: checkpoint(path, views(40_000, 2_000_000), records={"1": bytes(8_000_000)}),
    "200,000 tensors again": _with(tensors_again, 200_000),
    "14,000 empty tensors": _with(empty_tensors, 14_000),
    "40,000 records": lambda path: in_records(path, 40_000),
    "20,000 records": lambda path: in_records(path, 20_000),
    "49,000 unused records": lambda path: unused_records(path, 49_000),
    "100,000 unused records": lambda path: unused_records(path, 100_000),
    "60 modules, 50,000 tensors of long names": lambda path: long_keys(path, 60, 50_000),
}
