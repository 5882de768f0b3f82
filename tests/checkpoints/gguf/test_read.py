"""GGUF files: the model that they were made from, every tensor used, or refused by name."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tools import logits

from comp_lib.checkpoints.gguf.read import GgufFile, GgufTensors
from comp_lib.checkpoints.load import load_model, open_model
from comp_lib.utils.errors import InputError

IDS = torch.randint(0, 512, (2, 32), generator=torch.Generator().manual_seed(3))


def write_gguf(
    path: Path, model, tokenizer, architecture: str = "llama", extra_tensors: dict | None = None, **fields
) -> Path:
    """Write `model` and `extra_tensors` as a float32 GGUF file, by the rules of llama.cpp's converter."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    for key, value in fields.items():
        (writer.add_bool if isinstance(value, bool) else writer.add_float32)(key, value)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary["vocab"], key=vocabulary["vocab"].get))
    writer.add_token_types([3, 3] + [1] * (config.vocab_size - 2))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        for end, count in heads.items():  # llama.cpp pairs the rotated dimensions in another order
            if name.endswith(end):
                weight = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(weight))
    for name, weight in (extra_tensors or {}).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def dense(tiny_llama):
    return tiny_llama(tie_word_embeddings=True, rms_norm_eps=1e-5)


@pytest.fixture
def gguf_file(tmp_path, dense, tokenizer):
    return write_gguf(tmp_path / "tiny.gguf", dense, tokenizer)


def test_a_gguf_file_is_the_model_it_was_made_from(gguf_file, dense, tokenizer):
    another_tokenizer = tokenizer.backend_tokenizer.to_str().replace('"a"', '"@"')
    (gguf_file.parent / "tokenizer.json").write_text(another_tokenizer, "utf-8")
    model, its_tokenizer = load_model(gguf_file)
    assert torch.allclose(logits(model, IDS), logits(dense, IDS), atol=1e-5)
    for name, tensor in dense.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    text = "What a day, said the crow."
    assert its_tokenizer(text, add_special_tokens=False) == tokenizer(text, add_special_tokens=False)
    assert model.name_or_path == str(gguf_file)
    assert not hasattr(model.config, "quantization_config")
    assert open_model(gguf_file)[0].num_parameters() == dense.num_parameters()


def test_the_config_is_the_one_that_transformers_reads(gguf_file):
    from transformers import AutoConfig

    theirs = AutoConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).to_dict()
    ours = open_model(gguf_file)[0].config.to_dict()
    assert {key: value for key, value in ours.items() if key[0] != "_"} == {
        key: value for key, value in theirs.items() if key[0] != "_"
    }


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F16])
def test_rows_and_pieces_of_blocks_are_those_of_the_whole(tmp_path, tiny_llama, tokenizer, kind):
    dense = tiny_llama(tie_word_embeddings=True, intermediate_size=64)
    path = write_gguf(tmp_path / "tiny.gguf", dense, tokenizer)
    quantised = tmp_path / "q.gguf"
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(quantised, "llama")
    for tensor in reader.tensors:
        vector = len(tensor.shape) == 1
        values = np.array(tensor.data) if vector else gguf.quantize(np.array(tensor.data), kind)
        writer.add_tensor(tensor.name, values, raw_dtype=None if vector else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(quantised)
    file.metadata = GgufFile(path).metadata
    files = GgufTensors(file, open_model(path)[0])
    name = "model.embed_tokens.weight"
    matrix = files.read(name, torch.float32)
    expected = gguf.dequantize(gguf.quantize(dense.state_dict()[name].numpy(), kind), kind)
    assert torch.equal(matrix, torch.from_numpy(np.array(expected)))
    index = torch.tensor([7, 3, 7, 500])
    assert torch.equal(files.read(name, torch.float32, index), matrix[index])


# --- what is refused ----------------------------------------------------------------------------------------


def assert_refused(path, *fragments):
    """`load_model` refuses `path` in one line that holds all `fragments`."""
    with pytest.raises(InputError) as raised:
        load_model(path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("expected ")
    assert ", got " in message
    assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q.bias", "blk.3.attn_norm.weight", "rope_freqs.weight", "somebody.weight"]
)
def test_a_tensor_that_is_not_loaded_is_refused_by_name(tmp_path, dense, tokenizer, name):
    path = write_gguf(tmp_path / "more.gguf", dense, tokenizer, extra_tensors={name: np.ones(32, np.float32)})
    assert_refused(path, name, "safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.factor", 4.0),
        ("llama.rope.scaling.finetuned", True),
        ("llama.rope.scale_linear", 4.0),
    ],
)
def test_rope_scaling_is_refused(tmp_path, dense, tokenizer, key, value):
    assert_refused(
        write_gguf(tmp_path / "scaled.gguf", dense, tokenizer, **{key: value}),
        f"{key} = ",
        "not converted",
        "safetensors",
    )


def test_other_architectures_weights_and_numbers_are_refused(tmp_path, tiny_llama, tokenizer):
    assert_refused(write_gguf(tmp_path / "gpt.gguf", tiny_llama(), tokenizer, "gpt2"), "GPT2LMHeadModel")
    assert_refused(
        write_gguf(tmp_path / "granite.gguf", tiny_llama(), tokenizer, "granite"), "architecture", "granite"
    )
    spoilt = tiny_llama()
    spoilt.model.layers[2].mlp.up_proj.weight.data[0, 0] = math.nan
    assert_refused(write_gguf(tmp_path / "nan.gguf", spoilt, tokenizer), "model.layers.2.mlp.up_proj.weight")
    wider = tiny_llama()
    wider.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 40, bias=False)
    assert_refused(
        write_gguf(tmp_path / "wide.gguf", wider, tokenizer),
        "of another shape",
        "layers.1.mlp.up_proj.weight",
    )


HUGE = struct.pack("<Q", 1 << 60)
HEAD = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a GGUF file at all",
        HEAD,
        HEAD + HUGE + HUGE,
        HEAD + bytes(8) + struct.pack("<Q", 1) + HUGE,
        HEAD + bytes(8) + struct.pack("<QQ", 1, 1) + b"x" + struct.pack("<II", 9, 0) + HUGE,
        HEAD + bytes(8) + struct.pack("<QQ", 1, 1) + b"x" + struct.pack("<II", 9, 9) + HUGE,
        HEAD + bytes(8) + struct.pack("<QQ", 1, 21) + b"tokenizer.ggml.tokens" + struct.pack("<II", 4, 9),
        HEAD + struct.pack("<QQQ", 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 1 << 40, 0, 0),
        HEAD + struct.pack("<QQQ", 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 32, 999, 0),
    ],
    ids=["empty", "text", "cut", "counts", "name", "list", "lists-in-list", "tokens", "beyond", "type"],
)
def test_headers_that_claim_too_much(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"^expected a complete GGUF file, got .*m\.gguf"):
        GgufFile(tmp_path / "m.gguf")


def test_a_row_that_is_no_whole_number_of_blocks_is_damage(tmp_path):
    header = HEAD + struct.pack("<QQQ", 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 33, 8, 0)  # 8 is q8_0
    (tmp_path / "m.gguf").write_bytes(header + bytes(1000))
    with pytest.raises(InputError, match=r"with rows of 33 numbers in blocks of 32: fetch or write it again"):
        GgufFile(tmp_path / "m.gguf")


def test_a_file_that_is_cut_or_holds_a_name_twice_is_refused(tmp_path, gguf_file):
    content = gguf_file.read_bytes()
    (tmp_path / "short.gguf").write_bytes(content[:-5000])
    assert_refused(tmp_path / "short.gguf", "short.gguf", "too early")
    twice = content.replace(b"blk.1.attn_norm", b"blk.0.attn_norm")
    assert twice != content
    (tmp_path / "twice.gguf").write_bytes(twice)
    assert_refused(tmp_path / "twice.gguf", "twice")
