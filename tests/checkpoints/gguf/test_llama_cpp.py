"""llama.cpp in this process: nobody else can talk to it, and it says what a model in transformers says."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
import torch

from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.gguf import llama_cpp
from comp_lib.checkpoints.load import load_model

pytest.importorskip("xllamacpp")
REQUEST = {"prompt": [1, 2], "n_predict": 2}


@pytest.fixture(scope="module")
def file(parent, tmp_path_factory):
    return export_gguf(parent, tmp_path_factory.mktemp("gguf") / "m.gguf", "f32")


def test_nobody_who_lacks_the_key_is_answered(file):
    server = llama_cpp.start(file, 64, threads=1)
    assert server.listening_address.startswith("http://127.0.0.1:")
    for key in ({}, {"Authorization": "Bearer guess"}):
        request = urllib.request.Request(
            f"{server.listening_address}/v1/completions", json.dumps(REQUEST).encode(), key
        )
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)
    assert server.handle_completions(REQUEST)["choices"]


def test_losses_of_two_sequences(file, parent):
    model, _ = load_model(parent)
    ids = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 3]])
    with torch.inference_mode():
        logs = torch.log_softmax(model(ids).logits[:, :-1], -1)
    expected = -logs.gather(2, ids[:, 1:, None])[..., 0]
    losses = llama_cpp.losses(llama_cpp.start(file, 8, threads=1, cache="f32"), ids)
    torch.testing.assert_close(losses, expected, atol=0.02, rtol=0)
