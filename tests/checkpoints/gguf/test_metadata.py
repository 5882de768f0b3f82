"""Whatever a key of a GGUF file says, we read what llama.cpp computes, or refuse the key by its name.

For each family each key that we write gets other values, or goes; and keys are added that we do not write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf_rewriting import rewrite
from tools import torch_losses
from variants import PATTERNS, build, tokens

from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.gguf import llama_cpp
from comp_lib.checkpoints.gguf.read import CONFIG_KEY, GgufFile
from comp_lib.checkpoints.load import load_model
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow
pytest.importorskip("xllamacpp")

LOSS_TOLERANCE = 0.05  # nats
IDS = tokens(1, 12)
# variant -> overrides of its config; a Qwen3 of other makers has heads of 128 where it does not say so
FAMILIES = {
    "gqa": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 128, "use_sliding_window": False},
    "smollm3": {},
    "gemma3": {},
    "phi3": {},
    "granite": {},
    "olmo2": {},
    "ernie4_5": {},
}
READ_WITHOUT_OUR_CONFIG = ("gqa", "mistral", "qwen2", "qwen3", "gemma3", "phi3")
# other values of keys, after the architecture's name; all others are halved, doubled, or turned around
OTHERS = {
    "attention.layer_norm_rms_epsilon": [0.5],
    "rope.freq_base": [500.0],
    "attention.sliding_window": [2, 9, 0],
    "vocab_size": [511, 513],
    "general.architecture": ["qwen2", "llama", "nobody's"],
    "general.name": ["someone else's"],
    "general.type": ["adapter"],
    "general.file_type": [7],
    "general.quantization_version": [3],
    "tokenizer.ggml.model": ["llama"],
    "tokenizer.ggml.pre": ["llama-bpe"],
    "tokenizer.ggml.bos_token_id": [1],
    "tokenizer.ggml.eos_token_id": [0],
}
# keys that we do not write, after the architecture's name, and values that change what llama.cpp computes
UNKNOWN = {
    "attention.causal": False,
    "attention.sliding_window_pattern": 2,
    "rope.freq_base_swa": 500.0,
    "rope.dimension_count_swa": 4,
    "rope.scaling.factor": 4.0,
    "rope.scaling.attn_factor": 2.0,
    "final_logit_softcapping": 3.0,
    "attention.clamp_kqv": 0.1,
    "nobody's": 1,
}
# keys that say what llama.cpp takes for granted, or that it does not read
HARMLESS = {"attention.causal": True, "rope.freq_base_swa": 10_000.0, "tensor_data_layout": "any"}
# what makes the file of another maker of ours; Phi-3's config counts on a token that no tiny model has
THEIRS = {CONFIG_KEY: None, "tokenizer.ggml.padding_token_id": 0}


def other_values(key: str, value: Any) -> list[Any]:
    """Values that a key could have instead, and None: the key goes. Those of a tokenizer stay."""
    suffix = key if key.startswith(("general.", "tokenizer.")) else key.partition(".")[2]
    if suffix in OTHERS:
        alternatives = [alternative for alternative in OTHERS[suffix] if alternative != value]
    elif key == CONFIG_KEY:
        fields = json.loads(value)
        alternatives = [
            json.dumps(fields | change) for change in ({"rms_norm_eps": 0.5}, {"hidden_act": "relu"})
        ]
    elif isinstance(value, bool):
        alternatives = [not value]
    elif isinstance(value, list):
        alternatives = [value[::-1]]
    else:
        alternatives = [value / 2, value * 2] if isinstance(value, float) else [value // 2, value * 2]
    return alternatives if key.startswith("tokenizer.") else [*alternatives, None]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer):
    """The file of a family: made once."""
    files = {}

    def export(name: str) -> Path:
        if name not in files:
            folder = tmp_path_factory.mktemp(name)
            build(name, **PATTERNS.get(name, {}) | FAMILIES[name]).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            files[name] = export_gguf(folder, folder / "m.gguf", "f32")
        return files[name]

    return export


def llama_losses(file, ids=IDS):
    return llama_cpp.losses(llama_cpp.start(file, ids.shape[1] + 1, threads=1, cache="f32"), ids)


def refusal(file: Path) -> str | None:
    """Why we refuse the file, in one line; None: we read it, and compute what llama.cpp computes."""
    try:
        model, _ = load_model(file)
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    torch.testing.assert_close(llama_losses(file), torch_losses(model, IDS), atol=LOSS_TOLERANCE, rtol=0)
    return None


@pytest.mark.parametrize("name", FAMILIES)
def test_other_values_of_the_keys_that_we_write(exported, own_cache, tmp_path, name):
    metadata = GgufFile(exported(name)).metadata
    assert refusal(exported(name)) is None
    architecture = metadata["general.architecture"]
    refused = set()
    for key, value in metadata.items():
        for alternative in other_values(key, value):
            reason = refusal(rewrite(exported(name), tmp_path / "other.gguf", {key: alternative}))
            if reason is not None and key.startswith((architecture, "general.")):
                assert key in reason
                refused.add(key)
    # a missing one may be what llama.cpp takes for granted; another value never is
    assert refused >= {key for key in metadata if key.startswith(f"{architecture}.")}


@pytest.mark.parametrize("name", READ_WITHOUT_OUR_CONFIG)
def test_other_values_in_the_files_of_other_makers(exported, own_cache, tmp_path, name):
    metadata = GgufFile(exported(name)).metadata
    architecture = metadata["general.architecture"]
    assert refusal(rewrite(exported(name), tmp_path / "theirs.gguf", THEIRS)) is None
    read = set()
    for key in [key for key in metadata if key.startswith(f"{architecture}.")]:
        for alternative in other_values(key, metadata[key]):
            changes = THEIRS | {key: alternative}
            if (
                refusal(rewrite(exported(name), tmp_path / "other.gguf", changes)) is None
                and alternative is not None
            ):
                read.add(key.partition(".")[2])
    assert read >= {"attention.layer_norm_rms_epsilon", "rope.freq_base", "context_length"}


@pytest.mark.parametrize("config", ["ours", "none"])
@pytest.mark.parametrize("name", ["gqa", "gemma3", "phi3"])
def test_keys_that_we_do_not_write(exported, own_cache, tmp_path, name, config):
    file = exported(name)
    architecture = GgufFile(file).metadata["general.architecture"]
    without = {} if config == "ours" else THEIRS
    for key, value in UNKNOWN.items():
        changes = without | {f"{architecture}.{key}": value}
        assert f"{architecture}.{key} = " in (refusal(rewrite(file, tmp_path / "other.gguf", changes)) or "")
    changes = without | {f"{architecture}.{key}": value for key, value in HARMLESS.items()}
    assert refusal(rewrite(file, tmp_path / "other.gguf", changes)) is None


def test_what_the_unknown_keys_are_refused_for(exported, tmp_path):
    """llama.cpp computes other losses for them, so who skips them is wrong in silence."""
    expected = llama_losses(exported("gemma3"))
    for key in ("attention.causal", "attention.sliding_window_pattern", "rope.freq_base_swa"):
        file = rewrite(exported("gemma3"), tmp_path / "other.gguf", {f"gemma3.{key}": UNKNOWN[key]})
        assert (llama_losses(file) - expected).abs().max() > 10 * LOSS_TOLERANCE


def test_factors_of_scaled_positions(tmp_path, own_cache, tokenizer):
    """llama.cpp divides frequencies by a tensor: another one, or none, contradicts the config."""
    build("rope-llama3").save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    file = export_gguf(tmp_path / "m", tmp_path / "m.gguf", "f32")
    assert refusal(file) is None
    factors = next(t for t in gguf.GGUFReader(file).tensors if t.name == "rope_freqs.weight").data.copy()
    content = file.read_bytes()
    assert content.count(factors.tobytes()) == 1
    file.write_bytes(content.replace(factors.tobytes(), (factors + 1).tobytes()))
    assert "1 missing or altered in m.gguf (rope_freqs.weight)" in (refusal(file) or "")


# --- what is written ----------------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path, tokenizer):
    """A variant as a GGUF file: `export("phi3", file="a.gguf", hidden_size=48)` -> (file, model)."""

    def write(name: str, file: str = "m.gguf", **overrides):
        model = build(name, **PATTERNS.get(name, {}) | overrides)
        model.save_pretrained(tmp_path / "folder")
        tokenizer.save_pretrained(tmp_path / "folder")
        return export_gguf(tmp_path / "folder", tmp_path / file, "f32"), model

    return write


@pytest.mark.parametrize(("part", "turned"), [(0.25, 2), (0.5, 4), (0.75, 6), (0.4, None), (0.625, None)])
def test_phi3_turns_as_many_entries_as_the_file_says(export, own_cache, part, turned):
    """3 of 8 entries are no pairs: transformers turns 4 of them, by other angles than llama.cpp turns 4."""
    if turned is None:
        with pytest.raises(InputError, match=f"phi3 with positions that turn {int(8 * part)} entries"):
            export("phi3", partial_rotary_factor=part)
        return
    file, model = export("phi3", partial_rotary_factor=part)
    assert GgufFile(file).metadata["phi3.rope.dimension_count"] == turned
    torch.testing.assert_close(llama_losses(file), torch_losses(model, IDS), atol=LOSS_TOLERANCE, rtol=0)
    assert refusal(file) is None


@pytest.mark.parametrize(("layers", "scalar"), [(7, 12), (62, 8)])
def test_the_number_that_scales_gemma3_s_attention(export, own_cache, tmp_path, layers, scalar):
    """llama.cpp takes the size of a head, 12, but for 62 layers the stream's share of a head, 32 / 4.

    The other number costs half a nat or more; what llama.cpp rounds adds up to 0.07 over 62 layers.
    """
    types = [("full_attention" if (index + 1) % 6 == 0 else "sliding_attention") for index in range(layers)]
    fields = {"num_hidden_layers": layers, "layer_types": types, "hidden_size": 32}
    file, model = export("gemma3", query_pre_attn_scalar=scalar, **fields)
    expected = torch_losses(model, IDS)
    torch.testing.assert_close(
        llama_losses(file), expected, atol=LOSS_TOLERANCE * (layers / 7) ** 0.5, rtol=0
    )
    model.config.query_pre_attn_scalar = 8 + 12 - scalar
    alternative = type(model)(model.config)
    alternative.load_state_dict(model.state_dict())
    assert (torch_losses(alternative.eval(), IDS) - expected).abs().max() > 0.4
    theirs = rewrite(file, tmp_path / "theirs.gguf", THEIRS)
    if layers == 7:
        assert refusal(theirs) is None
    else:
        assert "attention scaled by 12, where llama.cpp takes 8" in (refusal(theirs) or "")
    with pytest.raises(InputError, match=f"scaled by 256, where llama.cpp takes {scalar}"):
        export("gemma3", "other.gguf", query_pre_attn_scalar=256, **fields)


@pytest.mark.parametrize("file_name", ["my-phi3.gguf", "Phi-3-small.gguf", "m.gguf"])
@pytest.mark.parametrize("name", ["gqa", "phi3"])
def test_the_name_of_a_file_is_not_the_model_s(export, file_name, name):
    """By "phi3" in the model's name llama.cpp looks for tokens that these models lack, and loads nothing."""
    file, _ = export(name, file_name)
    assert GgufFile(file).metadata["general.name"] == {"gqa": "llama", "phi3": "phi"}[name]
    assert llama_losses(file).isfinite().all()
