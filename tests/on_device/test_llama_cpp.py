"""llama.cpp in this process: nobody else can talk to it, and what it cannot run is refused."""

from __future__ import annotations

import json
import socket
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from comp_lib.errors import InputError
from comp_lib.on_device import llama_cpp
from comp_lib.on_device.gguf_export import export_gguf

pytest.importorskip("xllamacpp")
ASKED = {"prompt": [1, 2], "n_predict": 2}


@pytest.fixture(scope="module")
def file(parent, tmp_path_factory):
    return export_gguf(parent, tmp_path_factory.mktemp("gguf") / "m.gguf", "f16")


def doors():
    """What this process listens on: ports, and sockets by their names."""
    return [place.laddr for place in psutil.Process().net_connections("all") if place.laddr]


@pytest.fixture
def short():
    """A folder with a short name: that of a socket must be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_no_port_is_open_and_the_socket_has_no_name(file, short, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    before = doors()
    server = llama_cpp.start(file, 64, threads=1)
    (door,) = [place for place in doors() if place not in before]
    assert isinstance(door, str) and door.startswith(str(short)) and not list(short.iterdir())
    with socket.socket(socket.AF_UNIX) as stranger, pytest.raises(FileNotFoundError):
        stranger.connect(door)
    assert server.handle_completions(ASKED)["choices"]
    del server
    assert doors() == before


def test_where_there_are_no_such_sockets_a_key_is_asked_for(file, monkeypatch):
    monkeypatch.setattr(llama_cpp, "LONGEST_DOOR", 0)
    server = llama_cpp.start(file, 64, threads=1)
    assert server.listening_address.startswith("http://127.0.0.1:")
    for key in ({}, {"Authorization": "Bearer guess"}):
        request = urllib.request.Request(f"{server.listening_address}/v1/completions", json.dumps(ASKED).encode(), key)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)
    assert server.handle_completions(ASKED)["choices"]


@pytest.mark.parametrize("left", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(file, tmp_path, left):
    whole = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(InputError, match=r"expected .*cut\.gguf"):
        llama_cpp.start(tmp_path / "cut.gguf", 64, threads=1)
