"""Headers of GGUF files that claim what is not there: refused by name, before a library walks through them.

A row is (name, the bytes of the file, words of the refusal); `GOOD` is what a row departs from.
"""

from __future__ import annotations

import os
import struct

import gguf
import pytest

from comp_lib.errors import InputError
from comp_lib.models.gguf_files import open_gguf
from comp_lib.models.gguf_header import check_header

HUGE = 1 << 60


def text(content):
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(content)) + content


def value(name, kind, content):
    return text(name) + struct.pack("<I", kind) + content


def many(kind, count, content=b""):
    """A list."""
    return struct.pack("<IQ", kind, count) + content


def tensor(name="t", shape=(32,), kind=0, offset=0, axes=None):
    sizes = struct.pack("<I", len(shape) if axes is None else axes) + struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def file(values=(), tensors=(), counts=None, version=3, magic=b"GGUF", data=128):
    """A whole file; counts: (tensors, values) that it claims."""
    head = magic + struct.pack("<I", version) + struct.pack("<QQ", *(counts or (len(tensors), len(values))))
    head += b"".join(values) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32 + data)


ARCHITECTURE = value("general.architecture", 8, text("llama"))
GOOD = file([ARCHITECTURE, value("list", 9, many(8, 2, text("a") + text("b")))], [tensor()])
HEADERS = [
    ("empty", b"", ["complete GGUF"]),
    ("short", b"GGUF", ["bytes"]),
    ("magic", file(magic=b"GGML"), ["beginning"]),
    ("version", file(version=9), ["beginning"]),
    ("other-end-first", file(version=3 << 24), ["beginning"]),
    ("many-values", file(counts=(0, HUGE)), ["values"]),
    ("many-tensors", file(counts=(HUGE, 0)), ["tensors"]),
    ("values-that-are-not-there", file(counts=(0, 9_000)), ["bytes"]),
    ("name-huge", file([struct.pack("<Q", HUGE)]), ["bytes of text"]),
    ("name-no-text", file([value(b"\xff", 0, b"1")]), ["decode"]),
    ("kind", file([value("x", 77, b"")]), ["as a type"]),
    ("list-huge", file([value("x", 9, many(0, HUGE))]), ["entries in lists"]),
    ("list-longer-than-the-file", file([value("x", 9, many(10, 7_000_000))]), ["bytes"]),
    ("lists-together", file([value(f"x{i}", 9, many(0, 6_000_000, bytes(6_000_000))) for i in range(2)]), ["in lists"]),
    ("list-in-list", file([value("x", 9, many(9, 1, many(9, 1, many(0, 1, b"1"))))]), ["a list in a list"]),
    ("alignment", file([value("general.alignment", 4, struct.pack("<I", 7))], [tensor()]), ["alignment of 7"]),
    ("alignment-kind", file([value("general.alignment", 7, b"1")], [tensor()]), ["alignment of type 7"]),
    ("alignment-none", file([value("general.alignment", 4, struct.pack("<I", 0))], [tensor()]), ["alignment of 0"]),
    ("dimensions", file(tensors=[tensor(axes=4_000_000_000)]), ["dimensions"]),
    ("dimensions-none", file(tensors=[tensor(shape=())]), ["shape"]),
    ("size-none", file(tensors=[tensor(shape=(0,))]), ["shape"]),
    ("size-huge", file(tensors=[tensor(shape=(HUGE,))]), ["numbers in a row"]),
    ("sizes-huge", file(tensors=[tensor(shape=(1 << 40,) * 4)]), ["bytes"]),
    ("tensor-kind", file(tensors=[tensor(kind=999)]), ["type 999"]),
    ("tensor-blocks", file(tensors=[tensor(shape=(31,), kind=8)]), ["blocks of 32"]),
    ("tensor-beyond", file(tensors=[tensor(offset=4096)]), ["as first byte"]),
    ("tensor-cut", file(tensors=[tensor()], data=100), ["bytes"]),
    ("names-twice", file(tensors=[tensor(), tensor()], data=256), ["duplicated"]),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("name", "content", "words"), HEADERS, ids=[row[0] for row in HEADERS])
def test_headers_that_claim_too_much(tmp_path, monkeypatch, name, content, words):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    if name != "names-twice":  # which takes no memory: that is the library's to refuse
        monkeypatch.setattr(gguf, "GGUFReader", lambda path: pytest.fail("read"))
    with pytest.raises(InputError, match="^expected a complete GGUF file, got .*m.gguf") as raised:
        open_gguf(path)
    assert all(word in str(raised.value) for word in words), raised.value


def test_what_is_whole_is_read(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(GOOD)
    assert [tensor.name for tensor in open_gguf(path).tensors] == ["t"]


def test_a_pipe_is_no_gguf_file(tmp_path):
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(InputError, match="not there|pipe"):
        open_gguf(tmp_path / "m.gguf")


@pytest.mark.real
def test_the_model_in_the_wheel_passes():
    from comp_lib.models.wheels import wheel_gguf

    assert check_header(wheel_gguf("smollm2-135m")) == 134_515_008
