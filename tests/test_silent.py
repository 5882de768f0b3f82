"""Layers that stay without their attention, or without their MLP: in memory, from files, saved, in llama.cpp."""

from __future__ import annotations

import json
from dataclasses import replace

import gguf
import pytest
import torch
from command import FEW, run
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from variants import build, tokens

from comp_lib.errors import InputError
from comp_lib.families.silent import SilentAttention, SilentMLP
from comp_lib.importance.layers import sequence_loss_increase
from comp_lib.models.load import load_model
from comp_lib.models.per_layer_llama import as_stock
from comp_lib.models.save import Provenance, save_checkpoint
from comp_lib.on_device import llama_cpp
from comp_lib.on_device.gguf_export import export_gguf
from comp_lib.plan import Plan
from comp_lib.prune import IMPORTANCE_SEQUENCES, make_plan, prune
from comp_lib.scale.model_on_disk import Streamed
from comp_lib.scale.prune_to import prune_to
from comp_lib.settings import Settings
from comp_lib.shape import Shape

SETTINGS = Settings(ratio=0.3, multiple=4, aim="dense")
VARIANTS = ["gqa", "tied", "mlp-bias", "all-at-once"]


def plan_for(model, neurons=None, groups=None):
    """The first layer loses its attention, the second its MLP; the third is whole."""
    shape = Shape.of(model)
    neurons, groups = neurons or (shape.neurons[0], 0, shape.neurons[2]), groups or (0, *shape.kv_groups[1:])
    return Plan("p", shape.layers, tuple(range(shape.layers)), neurons, groups, 0.3, "decoder", 0.3)


def saved(done, dense, tokenizer, place):
    """The folder of a pruned model."""
    card = Provenance("p", Shape.of(dense), None, "a test", "condition", "least-squares", "0")
    return save_checkpoint(place / "small", done.model, tokenizer, done.plan, card)


@torch.inference_mode()
def masked(model, ids, no_attention, no_mlp):
    """The dense model's logits with these steps adding nothing, by hooks on transformers' modules."""
    hooks = [
        model.model.layers[layer].self_attn.register_forward_hook(
            lambda module, args, out: (torch.zeros_like(out[0]), *out[1:])
        )
        for layer in no_attention
    ]
    hooks += [
        model.model.layers[layer].mlp.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
        for layer in no_mlp
    ]
    logits = model(input_ids=ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_that_is_gone_adds_nothing(name):
    model, ids = build(name), tokens()
    done = prune(model, ids, replace(SETTINGS, recovery="none", aim="self"), plan=plan_for(model))
    assert torch.equal(done.model(input_ids=ids).logits, masked(model, ids, [0], [1]))
    shape = Shape.of(done.model)
    assert shape.kv_groups[0] == 0 and shape.neurons[1] == 0
    assert sum(parameter.numel() for parameter in done.model.parameters()) == shape.total
    before = Shape.of(model)
    assert done.plan.removed == pytest.approx(1 - shape.decoder / before.decoder)
    assert done.report.layers[0].attention_error == 1.0 and done.report.layers[1].error == 1.0


def test_what_is_left_takes_over():
    """Behind a silent attention the MLP is refitted to the dense stream: nearer to it than without a refit."""
    model, ids = build("gqa"), tokens(8)
    plan, wanted = plan_for(model), model(input_ids=ids).logits

    def apart(**changes):
        return (
            prune(model, ids, replace(SETTINGS, ridge=1e-3, **changes), plan=plan).model(ids).logits - wanted
        ).norm()

    assert apart() < apart(recovery="none", aim="self")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_saved_folder_loads_and_writes_the_same_text(name, tmp_path, tokenizer):
    dense = build(name)
    done = prune(dense, tokens(), SETTINGS, plan=plan_for(dense, neurons=(40, 0, 44)))
    folder = saved(done, dense, tokenizer, tmp_path)
    loaded = load_model(folder)[0]
    again, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = tokens(1, 9)
    for model in (loaded, again):
        assert isinstance(model.model.layers[0].self_attn, SilentAttention)
        assert isinstance(model.model.layers[1].mlp, SilentMLP)
        torch.testing.assert_close(model(ids).logits, done.model(ids).logits, rtol=1e-4, atol=1e-4)
        with_cache, without = (
            model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=c) for c in (True, False)
        )
        assert torch.equal(with_cache, without)
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    gone = ("layers.0.self_attn", "layers.0.input_layernorm", "layers.1.mlp", "layers.1.post_attention_layernorm")
    assert not [name for name in names if any(part in name for part in gone)]


def test_llama_cpp_computes_the_same(tmp_path, tokenizer):
    dense, ids = build("gqa"), tokens(1, 24)
    done = prune(dense, tokens(), SETTINGS, plan=plan_for(dense, (48, 44, 40), (2, 0, 2)))
    folder = saved(done, dense, tokenizer, tmp_path)
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    assert gguf.GGUFReader(file).fields["general.architecture"].contents() == "deci"
    found = llama_cpp.losses(llama_cpp.start(file, ids.shape[1] + 1, threads=1, cache="f32"), ids)
    with torch.no_grad():
        logs = torch.log_softmax(done.model(ids).logits[:, :-1].double(), -1)
    wanted = -logs.gather(2, ids[:, 1:, None])[..., 0].float()
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)


def test_files_give_what_memory_gives(tmp_path, tokenizer):
    model, ids = build("gqa"), tokens()
    model.save_pretrained(tmp_path / "parent")
    settings = replace(SETTINGS, attentions=1)
    source = Streamed(tmp_path / "parent", AutoConfig.from_pretrained(tmp_path / "parent"), torch.float32)
    inside, written = prune(model, ids, settings), prune_to(tmp_path / "small", source, tokenizer, ids, settings)
    assert written.plan == inside.plan and written.plan.kv_groups.count(0) == 1
    stored = {name: t for file in (tmp_path / "small").glob("*.safetensors") for name, t in load_file(file).items()}
    assert stored.keys() == inside.model.state_dict().keys()
    for name, value in inside.model.state_dict().items():
        torch.testing.assert_close(stored[name], value)


@pytest.mark.parametrize("widths", ["uniform", "per-layer", "measured"])
def test_the_attentions_that_are_missed_least_go(widths):
    model, ids = build("gqa"), tokens(8)
    settings = replace(SETTINGS, ratio=0.4, layers=0, attentions=2, widths=widths)
    plan = make_plan(model, ids, settings).plan
    harm = sequence_loss_increase(model, ids[:IMPORTANCE_SEQUENCES], which="attention").mean(1)
    assert [groups == 0 for groups in plan.kv_groups] == (harm < harm.max()).tolist()
    assert plan.removed >= 0.4 and min(plan.neurons) >= 4


def test_layers_without_attention_and_layers_that_are_dropped(tmp_path):
    model, ids = build("gqa"), tokens()
    done = prune(model, ids, replace(SETTINGS, ratio=0.5, layers=1, attentions=1))
    assert len(done.plan.layers) == 2 and done.plan.kv_groups.count(0) == 1
    small = done.model
    with_cache, without = (
        small.generate(ids[:1, :6], max_new_tokens=6, do_sample=False, use_cache=cached) for cached in (True, False)
    )
    assert torch.equal(with_cache, without)


def test_a_finished_plan_survives_json_and_is_carried_out_again():
    model, ids = build("gqa"), tokens()
    done = prune(model, ids, SETTINGS, plan=plan_for(model))
    assert done.plan.kept_groups[0] == done.plan.kept_neurons[1] == ()
    again = prune(model, ids, SETTINGS, plan=Plan.from_json(done.plan.to_json()))
    assert again.plan == done.plan and torch.equal(again.model(ids).logits, done.model(ids).logits)


@pytest.mark.parametrize(
    ("neurons", "groups", "words"),
    [
        ((48, 0, 48), (2, 0, 2), "0 and 0 in layer 1: drop the layer"),
        ((0, 0, 0), (2, 2, 2), "one layer with neurons and one with KV groups"),
        ((48, 48, -1), (2, 2, 2), "-1 and 2 in layer 2"),
    ],
)
def test_plans_that_leave_nothing_are_refused(neurons, groups, words):
    with pytest.raises(InputError, match=words):
        plan_for(build("gqa"), neurons, groups).check()


def test_what_cannot_be_had_is_refused_before_work():
    mistral, llama, ids = build("mistral"), build("gqa"), tokens()
    with pytest.raises(InputError, match="one to leave out of mistral.*leave out whole layers"):
        prune(mistral, ids, replace(SETTINGS, attentions=1))
    with pytest.raises(InputError, match="one to leave out of mistral"):
        prune(mistral, ids, SETTINGS, plan=plan_for(mistral))
    with pytest.raises(InputError, match="and not all of them, got .*one attention has to stay"):
        prune(llama, ids, replace(SETTINGS, attentions=3))
    with pytest.raises(InputError, match="a number of attentions to leave out, got -1"):
        replace(SETTINGS, attentions=-1).check()
    with pytest.raises(InputError, match="expected attentions to be 0 with the method flap"):
        replace(SETTINGS, method="flap", recovery="bias", aim="self", attentions=1).check()
    small = prune(llama, ids, SETTINGS, plan=plan_for(llama)).model
    with pytest.raises(InputError, match="a layer without one of them: prune the parent anew"):
        prune(small, ids, SETTINGS)
    with pytest.raises(InputError, match="save it as heterogeneous"):
        as_stock(small, Shape.of(small))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"num_attention_heads": 0}, "multiple of the 2 KV heads"),
        ({"num_attention_heads": 0, "num_key_value_heads": 0, "intermediate_size": 0}, "0 heads"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(parent_of_steps, entry, words):
    path = parent_of_steps / "config.json"
    fields = json.loads(path.read_text("utf-8"))
    fields["per_layer_config"]["2"].update(entry)
    path.write_text(json.dumps(fields), "utf-8")
    with pytest.raises(InputError, match=words):
        load_model(parent_of_steps)


@pytest.fixture
def parent_of_steps(tmp_path, tokenizer):
    dense = build("gqa")
    done = prune(dense, tokens(), SETTINGS, plan=plan_for(dense))
    return saved(done, dense, tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("neurons", "groups", "words"),
    [
        ((48, 48, 48), (0, 2, 2), "attention in the first layer.*not exported"),
        ((48, 0, 48), (2, 2, 2), "none in layer 1: llama.cpp would leave out its attention too"),
    ],
)
def test_what_llama_cpp_cannot_leave_out_is_refused(tmp_path, tokenizer, neurons, groups, words):
    dense = build("gqa")
    done = prune(dense, tokens(), SETTINGS, plan=plan_for(dense, neurons, groups))
    folder = saved(done, dense, tokenizer, tmp_path)
    with pytest.raises(InputError, match=words):
        export_gguf(folder, tmp_path / "m.gguf", "f32")
    assert not (tmp_path / "m.gguf").exists()


def test_the_command_line_leaves_attentions_out(parent, tmp_path):
    done = run("prune", str(parent), "--out", str(tmp_path / "small"), "--ratio", "0.3", "--attentions", "1", *FEW)
    assert done.exit_code == 0, done.output
    assert Plan.load(tmp_path / "small" / "comp_plan.json").kv_groups.count(0) == 1
    inspected = run("inspect", str(tmp_path / "small"), "--sequences", "2", "--length", "24")
    assert inspected.exit_code == 0, inspected.output
    refused = run("prune", str(parent), "--out", str(tmp_path / "other"), "--attentions", "3", *FEW)
    assert (
        refused.exit_code != 0 and "one attention has to stay" in refused.output and not (tmp_path / "other").exists()
    )
