"""Freed memory goes back to the system when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from comp_lib.system import machine

# Blocks that the C library takes from its own heap; the last one stays, so that the heap cannot simply end earlier.
PROGRAM = """
from comp_lib.system.machine import release_memory, resident_bytes
blocks = [bytearray(64_000) for _ in range(2000)]
del blocks[:-1]
before = resident_bytes()
release_memory()
print(before - resident_bytes())
"""


@pytest.mark.skipif(not hasattr(machine.C_LIBRARY, "malloc_trim"), reason="a C library without malloc_trim")
def test_what_was_freed_goes_back():
    printed = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert int(printed) > 100e6
