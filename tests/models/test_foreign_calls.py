"""Where foreign code is called: its errors become an InputError, a bug of our own keeps its traceback.

A row calls one block of `refusing` after the foreign function in it was replaced by one that raises an
AttributeError. Whether that is a bug of ours depends on the file that the raising line is in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
import torch
from variants import build

from comp_lib.errors import PACKAGE, InputError
from comp_lib.gguf.read import GgufFile, GgufTensors
from comp_lib.models import load
from comp_lib.models.export import export_gguf
from comp_lib.models.meta_model import described
from comp_lib.system import atomic, tensors

EMBEDDING = "model.embed_tokens.weight"


def raising(file: str) -> Callable[..., None]:
    """A function whose only line stands in `file`, and raises an AttributeError."""
    code = compile("def function(*_, **__): raise AttributeError('planted')", file, "exec")
    namespace: dict[str, Callable[..., None]] = {}
    exec(code, namespace)
    return namespace["function"]


def resolved(patch, planted, folder):
    patch.setattr(Path, "expanduser", planted)
    atomic.resolved("model")


def read_object(patch, planted, folder):
    patch.setattr(json, "loads", planted)
    atomic.read_object(folder / "config.json")


def headers_of_tensors(patch, planted, folder):
    patch.setattr(tensors, "safe_open", planted)
    tensors.TensorFiles(folder)


def one_tensor(patch, planted, folder):
    files = tensors.TensorFiles(folder)
    patch.setattr(tensors, "safe_open", planted)
    files.read(EMBEDDING, torch.float32)


def files_of_an_index(patch, planted, folder):
    index = folder / "index.json"
    index.write_text('{"weight_map": {"a": "a.safetensors"}}')
    patch.setattr(tensors, "Path", planted)
    tensors._files_of_index(index)


def open_gguf(patch, planted, folder):
    patch.setattr(Path, "open", planted)
    GgufFile(folder / "model.gguf")


def one_tensor_of_gguf(patch, planted, folder):
    path = export_gguf(folder, folder.parent / "model.gguf")
    files = GgufTensors(GgufFile(path), load.open_model(path)[0])
    patch.setattr(gguf, "dequantize", planted)
    files.read(EMBEDDING, torch.float32)


def build_config(patch, planted, folder):
    patch.setattr(load, "AutoConfig", SimpleNamespace(for_model=planted))
    load.open_model(folder)


def read_tokenizer(patch, planted, folder):
    patch.setattr(load, "AutoTokenizer", SimpleNamespace(from_pretrained=planted))
    load.open_model(folder)


def read_generation_config(patch, planted, folder):
    patch.setattr(load, "GenerationConfig", SimpleNamespace(from_pretrained=planted))
    load.open_model(folder)


def find_a_name(patch, planted, folder):
    patch.setattr(Path, "expanduser", planted)
    load._locate("model")


def fetch(patch, planted, folder):
    patch.setattr(load, "snapshot_download", planted)
    load.open_model("owner/name")


def load_shrunk_tensors(patch, planted, folder):
    model = build()
    patch.setattr(torch.nn.Module, "load_state_dict", planted)
    described(model)


BLOCKS = [
    resolved,
    read_object,
    headers_of_tensors,
    one_tensor,
    files_of_an_index,
    open_gguf,
    one_tensor_of_gguf,
    build_config,
    read_tokenizer,
    read_generation_config,
    find_a_name,
    fetch,
    load_shrunk_tensors,
]


@pytest.mark.parametrize("call", BLOCKS, ids=lambda call: call.__name__)
@pytest.mark.parametrize(
    ("file", "error"),
    [(str(PACKAGE / "planted.py"), AttributeError), ("site-packages/foreign.py", InputError)],
    ids=["ours", "foreign"],
)
def test_a_bug_of_ours_is_no_mistake_of_a_user(parent, tmp_path, monkeypatch, call, file, error):
    folder = tmp_path / "model"
    shutil.copytree(parent, folder)
    with monkeypatch.context() as patch, pytest.raises(error, match="planted") as raised:
        call(patch, raising(file), folder)
    assert type(raised.value) is error
