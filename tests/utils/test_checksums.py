"""The checksum of a file, or of a part of it."""

from __future__ import annotations

import zlib

import pytest

from comp_lib.utils import hashes
from comp_lib.utils.hashes import checksum_of_file


def test_a_checksum_is_that_of_the_bytes_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "BLOCK_SIZE", 7)
    path = tmp_path / "file"
    content = bytes(range(100))
    path.write_bytes(content)
    assert checksum_of_file(path) == zlib.crc32(content)
    assert checksum_of_file(path, 30) == zlib.crc32(content[30:])
    assert checksum_of_file(path, 30, 20) == zlib.crc32(content[30:50])
    assert checksum_of_file(path, 30, 0) == zlib.crc32(b"")
    assert checksum_of_file(path, 90, 20) == zlib.crc32(content[90:])


@pytest.mark.parametrize("position", [0, 6, 7, 99])
def test_each_flipped_byte_changes_it(position, tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "BLOCK_SIZE", 7)
    path = tmp_path / "file"
    content = bytearray(100)
    path.write_bytes(content)
    before = checksum_of_file(path)
    content[position] ^= 1
    path.write_bytes(content)
    assert checksum_of_file(path) != before
