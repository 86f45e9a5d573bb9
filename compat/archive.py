"""The container of a checkpoint: which kind of file it is, and whether torch's reader may unpack it.

torch.save writes a zip archive whose members are stored as they are, so a file can hold no more than its own size; that
is checked from the table of contents, before a member is read. Where Python's zip reader and torch's could see two
different archives in one file (a second table of contents, names that differ by case, comments), it is refused. Written
from the ZIP format note (APPNOTE 6.3: sections 4.3.6 to 4.3.16) and from what torch's files contain.
"""

from __future__ import annotations

import codecs
import string
import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from .allowed import AGAIN, STORAGES, Rejected, Storage, need
from .opcodes import DryRun

MAX_MEMBERS = 50_000  # tensors, about; yolov12n has 0.7 thousand, an unfinished run three times its model
MAX_DIRECTORY = 8 * 2**20  # bytes of the table of contents: 70 a member
MAX_PICKLE = 16 * 2**20  # bytes of pickle; yolov12n has 0.2 MB
NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + string.punctuation + " ") - {"\\"}

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # first bytes
SIGNATURES = {
    b"": "is empty",
    b"\x1f\x8b": "is a gzip archive: unpack it first",
    b"BZh": "is a bzip2 archive: unpack it first",
    b"\xfd7zXZ": "is an xz archive: unpack it first",
    b"7z\xbc\xaf": "is a 7z archive: unpack it first",
    b"Rar!": "is a rar archive: unpack it first",
    b"\x89HDF": "is an HDF5 file (Keras weights?)",
    b"\x93NUMPY": "is a numpy array",
    b"\x89PNG": "is a PNG image",
    b"\xff\xd8\xff": "is a JPEG image",
    b"%PDF": "is a PDF document",
    b"\x7fELF": "is a program",
    b"version https://git-lfs": "is a git-lfs pointer, not the file it stands for: run git lfs pull",
    b"<!DOCTYPE": "is a web page, so the download went wrong: get the file itself",
    b"<html": "is a web page, so the download went wrong: get the file itself",
    b"PK\x05\x06": "is an empty zip archive",
    b"\x80": "is a pickle, but not one of torch.save: save the weights with torch.save(model.state_dict(), path)",
}


@dataclass(frozen=True)
class Outline:
    """A file that may be unpacked. names: the stand-ins it needs; is_zip: whether it is torch's format since 1.6."""

    names: frozenset[str]
    is_zip: bool


def inspect(handle: BinaryIO, size: int) -> Outline:
    """Check a whole file of `size` bytes without making a tensor. Raises Rejected with what it is or what is wrong."""
    head = handle.read(512)
    if head.startswith(ZIP):
        return _inspect_zip(handle, size)
    if head.startswith(LEGACY):
        handle.seek(0)
        return _inspect_legacy(handle.read())
    raise Rejected(_what_else(head))


def _what_else(head: bytes) -> str:
    for signature, what in SIGNATURES.items():
        if head[: len(signature)].lower() == signature.lower() and (signature or not head):
            return f"{what}. A checkpoint of torch.save is needed."
    if head[8:10] == b'{"':
        return "is a safetensors file: give it a name that ends in .safetensors."
    if head[257:262] == b"ustar":
        return "is a tar archive (torch.save before 0.1.10 wrote those). Save it again with a newer torch."
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
        if "\0" not in text:
            return f"is a text file that begins with {text[:40]!r}. A checkpoint of torch.save is needed."
    except UnicodeDecodeError:
        pass
    return f"is no checkpoint: it begins with the bytes {head[:8].hex(' ')}. A checkpoint of torch.save is needed."


def _inspect_zip(handle: BinaryIO, size: int) -> Outline:
    _check_end(handle, size)
    try:
        with zipfile.ZipFile(handle) as archive:
            members = archive.infolist()
            top = members[0].orig_filename.partition("/")[0] if members else ""
            _check_kind({member.orig_filename for member in members}, top)
            records = _records(members, top, size)
            need(records["data.pkl"] <= MAX_PICKLE, f"has {records['data.pkl']} bytes of pickle")
            if archive.getinfo(f"{top}/data.pkl").CRC == 0:  # torch.serialization.set_crc32_options(False)
                for member in members:
                    member.CRC = None  # not compared
            run = DryRun(archive.read(f"{top}/data.pkl")).run()
            for storage in run.storages.values():
                _check_record(storage, records)
                with archive.open(f"{top}/data/{storage.key}") as record:
                    while record.read(2**20):  # to the end, where its checksum is compared: torch's reader does not
                        pass
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, UnicodeDecodeError) as error:
        raise Rejected(f"is a damaged zip archive ({error}). {AGAIN}") from error
    return Outline(frozenset(run.names), is_zip=True)


def _check_kind(names: set[str], top: str) -> None:
    if f"{top}/constants.pkl" in names:
        raise Rejected(
            "is a TorchScript archive: a program exported for deployment, not weights that can be trained "
            "or changed. Give the .pt file it was exported from."
        )
    if f"{top}/data.pkl" not in names:
        raise Rejected(
            "is a zip archive, but not one of torch.save: it has no data.pkl. If a checkpoint is inside it, "
            "unpack it first."
        )


def _check_record(storage: Storage, records: dict[str, int]) -> None:
    held = records.get(f"data/{storage.key}")
    need(held is not None, f"lacks the record data/{storage.key[:40]!r} that a tensor needs")
    need(
        held == storage.nbytes,
        f"holds {held} bytes in record data/{storage.key}, where {storage.numel} values of "
        f"{storage.kind} take {storage.nbytes}",
    )


def _check_end(handle: BinaryIO, size: int) -> None:
    # One table of contents, at the very end, without a comment: then every zip reader sees the same archive.
    handle.seek(max(size - 98, 0))
    tail = handle.read(98)
    if len(tail) < 22 or tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise Rejected(
            f"is cut off or has something behind its end ({size} bytes): the archive's table of contents is "
            f"not where it belongs. {AGAIN}"
        )
    _, _, here, entries, length, start = struct.unpack("<4H2L", tail[-18:-2])
    ends = size - 22
    if tail[-42:-38] == b"PK\x06\x07":  # torch always writes the 64-bit form too
        ends = size - 98
        at = struct.unpack("<Q", tail[-34:-26])[0]
        need(at == ends and tail[:4] == b"PK\x06\x06", "has two tables of contents")
        wide = struct.unpack("<4Q", tail[24:56])  # entries on this disk, entries, length, start
        narrow = zip((here, entries, length, start), wide, (16, 16, 32, 32))
        need(all(few in (many, 2**bits - 1) for few, many, bits in narrow), "has two tables of contents")
        here, entries, length, start = wide
    need(start + length == ends and here == entries, "has a table of contents that is not where it says")
    need(entries <= MAX_MEMBERS and length <= MAX_DIRECTORY, f"has {entries} members, {length} bytes of contents")
    handle.seek(0)


def _records(members: list[zipfile.ZipInfo], top: str, size: int) -> dict[str, int]:
    # name below the archive's one folder -> bytes. Rejected where a member could be more than its bytes in the file.
    records: dict[str, int] = {}
    seen: set[str] = set()
    for member in members:
        name = member.orig_filename
        shown = repr(name[:60])
        parts = name.split("/")
        need(
            set(name) <= NAME_CHARACTERS and not {"", ".", ".."} & set(parts) and len(name) < 256,
            f"has a member named {shown}, which is not the name of a file inside a folder",
        )
        need(parts[0] == top and len(parts) > 1, f"has a member {shown} outside its folder {top[:40]!r}")
        need(name.lower() not in seen, f"has the member {shown} twice")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise Rejected(
                f"has a compressed member {shown} ({member.compress_size} bytes for {member.file_size}), "
                "which torch.save never writes; it was not unpacked. Save it again with torch.save."
            )
        need(not member.flag_bits & 0x1, f"has an encrypted member {shown}")
        need(member.header_offset + member.file_size <= size, f"has a member {shown} that reaches beyond its end")
        seen.add(name.lower())
        records[name.partition("/")[2]] = member.file_size
    total = sum(records.values())
    need(total <= size, f"has members of {total} bytes together, more than its own {size}")
    return records


def _inspect_legacy(data: bytes) -> Outline:
    # torch before 1.6: three small pickles, the content, the storages' keys; then each storage behind its length.
    at = 0
    for _ in range(3):
        at = DryRun(data[: at + MAX_PICKLE], at).run().at
    content = DryRun(data[: at + MAX_PICKLE], at).run()
    order = DryRun(data[: content.at + MAX_PICKLE], content.at).run()
    keys = order.result
    need(
        type(keys) is list and all(type(key) is str for key in keys) and sorted(keys) == sorted(content.storages),
        "lists other tensors than it holds",
    )
    at = order.at
    for key in keys:
        storage = content.storages[key]
        length = struct.pack("<Q", storage.numel)
        need(data[at : at + 8] == length, f"has a tensor whose length is not {storage.numel} as it says")
        at += 8 + storage.numel * STORAGES[storage.kind]
    need(at <= len(data), f"is cut off: its tensors take {at} bytes")
    return Outline(frozenset(content.names), is_zip=False)
