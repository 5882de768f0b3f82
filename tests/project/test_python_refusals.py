"""Bad calls from Python: each row is a call, and words of the one line that refuses it.

Each call gets a tiny model whose context has 128 tokens. `hostile/test_calls.py` has the same for the command
line.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tools import SETTINGS, hash_of_weights, plan_of_everything
from transformers import PreTrainedTokenizerFast
from variants import build, tokens

import comp_lib
from comp_lib.calibration.mixtures import shares_of
from comp_lib.calibration.windows import Calibration
from comp_lib.checkpoints.from_disk.prune_model import prune_model
from comp_lib.decoder.shape import Shape
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.loss import compare_losses, measure_loss
from comp_lib.importance.neuron_metrics import METRICS, keep_highest, metric
from comp_lib.importance.problem import Selection
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import (
    PRESETS,
    CompleteSettings,
    MethodChanges,
    PresetName,
    Settings,
    SettingsChanges,
)
from comp_lib.recovery.healing import HealingSettings
from comp_lib.utils.errors import InputError
from comp_lib.utils.progress import log_lines

LONG = "sequences of at most 128 tokens, the model's, got 200"
LONG_IDS = tokens(2, 200)
DRAWN = Calibration("self", sequences=2, length=16)
TOKENIZER = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel()))


def model_with(change):
    """A tiny model that `change` has spoilt."""
    model = build()
    change(model)
    return model


def patch(module):
    """Put another forward in the place of the module's own, which it calls."""
    original = module.forward
    module.forward = lambda *args, **kwargs: original(*args, **kwargs)


class WithAdapters:
    """A model as peft wraps it."""

    def merge_and_unload(self):
        raise NotImplementedError


def jagged():
    return torch.nested.nested_tensor([torch.arange(5), torch.arange(7)], layout=torch.jagged)


WORKED_ON = {"prune": prune, "measure": lambda model, ids, _: measure_loss(model, ids)}
MODELS = [  # what makes the model, words of the refusal
    (lambda: build().to("meta"), "a model with numbers, got model.embed_tokens.weight on the device meta:"),
    (
        lambda: model_with(lambda m: m.model.layers[1].to("meta")),
        "got model.layers.1.self_attn.q_proj.weight",
    ),
    (lambda: torch.compile(build()), "a model, got OptimizedModule: "),
    (lambda: torch.nn.DataParallel(build()), "a model, got DataParallel: "),
    (lambda: build().model, "got LlamaModel without embed_tokens"),
    (lambda: model_with(lambda m: setattr(m, "lm_head", torch.nn.Identity())), "without lm_head"),
    (lambda: model_with(lambda m: setattr(m, "config", None)), "a model, got LlamaForCausalLM: "),
    (lambda: build(return_dict=False), "names what it returns, got return_dict=False in its config:"),
    (lambda: model_with(patch), "as its classes say, got another forward in the model:"),
    (lambda: model_with(lambda m: patch(m.model)), "as its classes say, got another forward in model:"),
]
IDS = [  # what makes the tokens, words of the refusal
    (lambda: tokens().to_sparse(), "got a tensor of torch.sparse_coo on cpu:"),
    (lambda: tokens().to_sparse_csr(), "got a tensor of torch.sparse_csr on cpu:"),
    (jagged, "got a nested one:"),
    (lambda: torch.nested.nested_tensor([torch.arange(5), torch.arange(7)]), "got a nested one:"),
    (lambda: tokens().to("meta"), "got a tensor of torch.strided on meta:"),
    (lambda: tokens().tolist(), "got list:"),
    (lambda: None, "got NoneType:"),
    (lambda: tokens()[0], "got shape (24,):"),
    (lambda: tokens()[None], "got shape (1, 4, 24):"),
    (lambda: tokens()[:, :1], "got shape (4, 1):"),
    (lambda: tokens()[:0], "got shape (0, 24):"),
    (lambda: -1 - tokens(), "tokens from 0 to 511, got -5"),
    (lambda: tokens().float(), "tokens from 0 to 511, got torch.float32:"),
    (lambda: tokens() > 3, "tokens from 0 to 511, got torch.bool:"),
    (lambda: tokens().to(torch.complex64), "tokens from 0 to 511, got torch.complex64:"),
    (lambda: torch.full((2, 8), 2**64 - 1, dtype=torch.uint64), "tokens from 0 to 511, got -1"),
]
ROWS = [
    # --- what is no model, or one that cannot be run piece by piece
    *(
        (lambda _, call=call, make=make: call(make(), tokens(), SETTINGS), phrase)
        for call in WORKED_ON.values()
        for make, phrase in MODELS
    ),
    (
        lambda _: prune(build(num_hidden_layers=0), tokens(), SETTINGS),
        "a decoder with layers, got none:",
    ),
    (
        lambda _: prune(build(rms_norm_eps=-10.0), tokens(), SETTINGS),
        "got LlamaDecoderLayer with outputs that are NaN or infinite:",
    ),
    # --- what is no plain tensor of tokens
    *(
        (lambda model, call=call, make=make: call(model, make(), SETTINGS), phrase)
        for call in WORKED_ON.values()
        for make, phrase in IDS
    ),
    # --- sequences beyond the context
    (lambda model: prune(model, LONG_IDS, SETTINGS), LONG),
    (lambda model: measure_loss(model, LONG_IDS), LONG),
    (lambda model: judge(model, {"text": LONG_IDS}), LONG),
    (lambda model: compare_losses(model, build(max_position_embeddings=256), LONG_IDS), LONG),
    (lambda model: compare_losses(build(max_position_embeddings=256), model, LONG_IDS), LONG),
    # --- what was meant otherwise
    (
        lambda model: prune((model, None), tokens()),
        "a model, got tuple: unpack it: model, tokenizer = load_model",
    ),
    (
        lambda model: measure_loss(SimpleNamespace(model=model), tokens()),
        "a model, got SimpleNamespace: take its",
    ),
    (lambda model: prune(model, tokens(), plan_of_everything(model)), "write plan= before a plan"),
    (
        lambda model: prune(model, tokens(), progress=log_lines),
        "got log_lines, which makes one: write log_lines()",
    ),
    (
        lambda model: prune(model, tokens(), progress=lambda label: None),
        "progress to take the label, how many",
    ),
    (
        lambda model: prune_model("m", "out", settings=Settings(device="auto"), device="cpu"),
        "settings, or their fields as arguments, got both, with device:",
    ),
    # --- text to draw
    (lambda model: DRAWN.tokens(None, model="smollm2-135m"), "a model, got str:"),
    (lambda model: DRAWN.tokens(None, model=model, progress=True), "progress to be a function, got True:"),
    (lambda model: Calibration("self", length=200).tokens(None, model=model), LONG),
    (
        lambda model: comp_lib.evaluate(model, TOKENIZER, 3),
        "text, or a list of texts, got 3: such as 'evaluation",
    ),
    (
        lambda model: comp_lib.evaluate(model, TOKENIZER, ["evaluation:code", "evaluation:prose"]),
        "to be a list of texts, got one of names, such as 'evaluation:code': give what is in the files",
    ),
    (
        lambda model: Calibration([__file__]),
        "calibration to be a list of texts, got one of names, such as '/",
    ),
    (
        lambda model: Shape.of("smollm2-135m"),
        "a decoder with embed_tokens, layers and norm, and lm_head over it",
    ),
    # --- metrics
    *(
        (lambda model, keep=keep: keep_highest(torch.ones(4), keep), phrase)
        for keep, phrase in (
            (1.5, "keep as a whole number above 0, got 1.5:"),
            ("2", "got '2': write it without quotes"),
            (-1, "got -1: the smallest is 1"),
            (5, "at most 4 blocks to keep, got 5:"),
        )
    ),
    (lambda model: keep_highest(torch.tensor(3.0), 1), "a real score for each block, got a tensor of"),
    (lambda model: keep_highest(torch.ones(4) * 1j, 1), "a real score for each block, got a tensor of"),
    # --- what this model cannot lose
    *(
        (
            lambda model, count=count: prune(model, tokens(), Settings(drop_layers=count)),
            f"drop_layers to leave some of the 3 layers, got {count}, so {layers} layers to drop: drop 2",
        )
        for count, layers in ((3, 3), (9, 9), (0.9, 3))
    ),
    (lambda model: comp_lib.load_model(model), "name to be the name or the folder of a model, got LlamaFor"),
    (
        lambda model: prune(WithAdapters(), tokens()),
        "merge what was trained into it: model.merge_and_unload()",
    ),
    (lambda model: keep_highest([1.0, 2.0], 1), "scores as a tensor, got list:"),
    (
        lambda model: metric("pair")(lambda problem, keep: None),
        "takes the problem, how many blocks to keep, and",
    ),
    # --- numbers
    (lambda model: Settings(ratio=5), "ratio to be between 0 and 1 (such as 0.2), got 5:"),
    (lambda model: Settings(ratio=0), "ratio to be between 0 and 1 (such as 0.2), got 0:"),
    (lambda model: Settings(ratio=1.0), "ratio to be between 0 and 1 (such as 0.2), got 1.0:"),
    (lambda model: Settings(ratio=math.nan), "ratio to be between 0 and 1 (such as 0.2), got nan:"),
    (lambda model: HealingSettings(learning_rate=0), "learning_rate as a finite number above 0, got 0:"),
    (
        lambda model: HealingSettings(learning_rate=-1e-3),
        "learning_rate as a finite number above 0, got -0.001:",
    ),
    (
        lambda model: HealingSettings(learning_rate=math.inf),
        "learning_rate as a finite number above 0, got inf:",
    ),
    (
        lambda model: HealingSettings(learning_rate=math.nan),
        "learning_rate as a finite number above 0, got nan:",
    ),
    (
        lambda model: HealingSettings(learning_rate="1e-3"),
        "learning_rate as a finite number above 0, got '1e-3':",
    ),
    (
        lambda model: HealingSettings(learning_rate=True),
        "learning_rate as a finite number above 0, got True:",
    ),
    (lambda model: HealingSettings(seed=1.5), "seed to be a whole number from 0, got 1.5:"),
    (lambda model: HealingSettings(seed=True), "seed to be a whole number from 0, got True:"),
    (lambda model: HealingSettings(seed=-1), "seed to be a whole number from 0, got -1:"),
    (
        lambda model: HealingSettings(seed=2**70),
        "seed to be a whole number from 0, got 1180591620717411303424:",
    ),
    (lambda model: Settings(kv_groups=0), "kv_groups as a whole number above 0, got 0:"),
    (lambda model: Settings(multiple=0), "multiple as a whole number above 0, got 0:"),
    # --- types
    (lambda model: prune("smollm2-135m", LONG_IDS, SETTINGS), "a model, got str: load_model loads it"),
    (lambda model: prune(model, tokens(), SETTINGS, plan="comp_plan.json"), "a Plan, got str: Plan.load"),
    (lambda model: judge("build/small", {"text": tokens()}), "a model, got str: load_model loads it"),
    (lambda model: judge(model, {"text": tokens()}, "parent"), "a model, got str: load_model loads it"),
    (lambda model: Settings(token_weights="no"), "token_weights to be True or False, got 'no':"),
    (lambda model: prune(model, [[1]], SETTINGS), "got list: Calibration(...).tokens(tokenizer) draws them"),
    # --- names
    (lambda model: Settings.preset("beast"), "preset to be one of stock, "),
    (lambda model: Settings.preset(["best"]), "preset to be one of stock, "),
    (
        lambda model: Settings(layer_metric="los"),
        "layer_metric to be one of block-influence, loss, got 'los':",
    ),
    (lambda model: Settings(ridge=0), "ridge to be a number above 0, at most 1e+06, or 'auto', got 0:"),
    (lambda model: metric("magnitude"), "a name that no metric of comp_lib has, got 'magnitude'"),
    (
        lambda model: metric("comp")(lambda problem, keep, generator: None),
        "no method of comp_lib has, got 'comp'",
    ),
    (lambda model: metric("condition")(lambda *all: None), "no method of comp_lib has, got 'condition'"),
    (
        lambda model: metric(lambda *all: None),
        "the name of a metric, of letters, digits, hyphens and underscores, got <function",
    ),
    (lambda model: shares_of("general++self"), "each side of a \"+\", got 'general++self'"),
    (lambda model: shares_of("+general"), "each side of a \"+\", got '+general'"),
    (lambda model: Calibration("general+").tokens(None), "each side of a \"+\", got 'general+'"),
]


@pytest.mark.parametrize(("call", "phrase"), ROWS, ids=[phrase[:40] for _, phrase in ROWS])
def test_a_bad_call_is_refused_in_one_line(call, phrase):
    with pytest.raises(InputError) as error:
        call(build())
    message = str(error.value)
    assert message.startswith("expected ")
    assert phrase in message
    assert "\n" not in message


LINEARS = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.q_proj", "self_attn.o_proj")


@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook"])
def test_hooks_on_a_linear_that_surgery_replaces_are_refused(name, kind):
    model = build()
    linear = model.model.layers[1].get_submodule(name)
    hook = getattr(linear, f"register_{kind}")(lambda *_: None)
    with pytest.raises(InputError, match=f"^expected plain linears, .*got hooks on layers.1.{name}: remove"):
        prune(model, tokens(), SETTINGS)
    hook.remove()
    prune(model, tokens(), SETTINGS)


@pytest.mark.parametrize(
    "name", ["layers.1", "layers.1.mlp", "layers.1.mlp.act_fn", "norm", "layers.0.mlp.up_proj"]
)
def test_a_forward_that_pruning_would_lose_is_refused(name):
    model = build()
    patch(model.model.get_submodule(name))
    assert measure_loss(model, tokens()) == measure_loss(build(), tokens())
    with pytest.raises(InputError, match=f"got another forward in model.{name}: "):
        prune(model, tokens(), SETTINGS)


def test_a_linear_of_another_class_is_refused():
    model = build()
    torch.nn.utils.parametrize.register_parametrization(
        model.model.layers[2].mlp.up_proj, "weight", torch.nn.Tanh()
    )
    with pytest.raises(InputError, match="got the class ParametrizedLinear on layers.2.mlp.up_proj: "):
        prune(model, tokens(), SETTINGS)


@pytest.mark.parametrize("name", ["", "model", "model.layers.1.mlp"])
def test_what_torch_compiles_in_place_is_pruned_and_measured_as_it_is(name):
    model = build()
    compiled = model.get_submodule(name)
    compiled._compiled_call_impl = lambda *args, **kwargs: type(compiled).__call__(
        build().get_submodule(name), *args, **kwargs
    )
    assert measure_loss(model, tokens()) == measure_loss(build(), tokens())
    assert hash_of_weights(prune(model, tokens(), SETTINGS).model) == hash_of_weights(
        prune(build(), tokens(), SETTINGS).model
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int16", "int32"])
def test_tokens_of_any_whole_numbers_are_taken(dtype):
    ids = tokens() % 200
    as_dtype = ids.to(getattr(torch, dtype))
    assert measure_loss(build(), as_dtype) == measure_loss(build(), ids)
    assert compare_losses(build(), build(seed=1), as_dtype) == compare_losses(build(), build(seed=1), ids)
    assert prune(build(), as_dtype, SETTINGS).plan == prune(build(), ids, SETTINGS).plan


class Thing:
    """A value that no argument takes."""

    def __repr__(self) -> str:
        return "<a thing>"


# name in `comp_lib` -> arguments that it takes from `parent`, `model` and `tokenizer`, beside the wrong one
GOOD_ARGUMENTS = {
    "Calibration": lambda parent, model, tokenizer: {},
    "Plan": lambda parent, model, tokenizer: vars(plan_of_everything(model)),
    "Settings": lambda parent, model, tokenizer: {},
    "evaluate": lambda parent, model, tokenizer: {"model": model, "tokenizer": tokenizer},
    "HealingSettings": lambda parent, model, tokenizer: {},
    "export_gguf": lambda parent, model, tokenizer: {"name": parent, "out": "out.gguf"},
    "export_padded": lambda parent, model, tokenizer: {"name": parent, "out": "out"},
    "heal": lambda parent, model, tokenizer: {"model": model, "ids": tokens(12), "parent": model},
    "heal_folder": lambda parent, model, tokenizer: {"name": parent, "out": "out", "parent_name": parent},
    "load_model": lambda parent, model, tokenizer: {"name": parent},
    "log_lines": lambda parent, model, tokenizer: {},
    "load_text": lambda parent, model, tokenizer: {},
    "metric": lambda parent, model, tokenizer: {},
    "prune": lambda parent, model, tokenizer: {"model": model, "ids": tokens()},
    "prune_model": lambda parent, model, tokenizer: {
        "name": parent,
        "out": "out",
        "calibration": Calibration("shipped", length=64),
    },
    "save_model": lambda parent, model, tokenizer: {
        "pruned": prune(model, tokens(), SETTINGS),
        "out": "out",
        "tokenizer": tokenizer,
    },
}
# Of these, nobody makes one: they come back.
RESULTS = {
    *("Evaluation", "EvaluationByText", "Intervals", "LayerReport", "Measures", "Pruned", "Report", "Shape"),
    *(
        "Comparison",
        "ComparisonByText",
        "CompleteSettings",
        "HealingResult",
        "SavedModel",
        "Verdict",
        "ComparedEvaluation",
        "HealedFolder",
    ),
}
# What a metric gets and returns: `prune` checks it.
OF_A_METRIC = {"Problem", "Selection", "Statistics", "keep_highest"}
OTHERS = {"InputError", "NoNumber", "OutOfReach", "PRESETS", "Progress", "__version__"}
ARGUMENTS = [
    (name, argument)
    for name in GOOD_ARGUMENTS
    for parameter in inspect.signature(getattr(comp_lib, name)).parameters
    for argument in (MethodChanges.__annotations__ if parameter == "changes" else [parameter])
]
WRONG_VALUES = [
    Thing(),
    [1],
    b"512",
    2.5,
    "512",
]  # at least one of them is wrong for each argument, often all
# argument -> values that it takes after all
RIGHT_VALUES = {
    "at_most": [2.5, "512"],
    "device": ["512"],  # whether this machine has it is checked when work begins
    "learning_rate": [2.5],
    "model_name": ["512"],
    "name": ["512"],
    "out": ["512"],
    "parent_name": ["512"],
    "parent": ["512"],
    "ridge": [2.5],
    "seconds": [2.5],
    "source": ["512"],
}


TAKE_NONE = {
    "Calibration": ["sequences"],
    "Plan": ["kept_neurons", "kept_groups"],
    "Settings": ["widths", "kv_groups", "recovery", "multiple"],
    "evaluate": ["parent", "window_length", "window_count"],
    "prune": ["settings", "plan"],
    "prune_model": [
        *("ratio", "settings", "at_most", "preset", "judged_on", "device"),
        *("widths", "kv_groups", "recovery", "multiple"),
    ],
}


def test_each_name_of_comp_lib_is_called_wrongly_or_comes_back():
    assert GOOD_ARGUMENTS.keys() | RESULTS | OF_A_METRIC | OTHERS == {*comp_lib.__all__}


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_argument_of_a_wrong_type_is_refused_in_one_line(
    name, argument, parent, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = GOOD_ARGUMENTS[name](parent, build(), tokenizer)
    values = [value for value in WRONG_VALUES if value not in RIGHT_VALUES.get(argument, [])]
    if argument not in TAKE_NONE.get(name, []):
        values.append(None)
    for value in values:
        with pytest.raises(InputError) as error:
            getattr(comp_lib, name)(**arguments | {argument: value})
        message = str(error.value)
        assert message.startswith("expected ")
        assert "\n" not in message
        assert error.value.hint
        if not isinstance(value, list):  # which may be too short, so that its length is what came
            assert type(value).__name__ in error.value.got or str(value) in error.value.got, message
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_the_numbers_that_they_are():
    settings = Settings(
        ratio=np.float32(0.25), multiple=np.int64(4), drop_layers=np.int32(0), seed=np.int64(3)
    )
    assert settings == Settings(ratio=0.25, multiple=4, drop_layers=0, seed=3)
    assert {type(value) for value in vars(settings).values()} <= {int, float, str, bool, type(None)}
    calibration = Calibration("shipped", sequences=np.int64(4), length=np.int32(16))
    assert calibration == Calibration("shipped", sequences=4, length=16)
    assert type(calibration.sequences) is int
    healing = HealingSettings(steps=np.int64(5), learning_rate=np.float32(0.5))
    assert healing == HealingSettings(steps=5, learning_rate=0.5)
    assert type(healing.learning_rate) is float
    plan = plan_of_everything(build())
    by_numpy = dataclasses.replace(plan, neurons=np.array(plan.neurons), ratio=np.float32(plan.ratio))
    assert by_numpy == plan
    assert by_numpy.to_json() == plan.to_json()


def test_none_does_not_win_over_a_preset():
    for name in ("stock", "best"):
        assert Settings.preset(name, widths=None, kv_groups=None) == Settings.preset(name)
    assert Settings.preset("stock", widths="estimated").widths == "estimated"


def test_a_plan_of_widths_that_removes_another_share_is_carried_out_with_a_remark(caplog):
    small = build(intermediate_size=64)
    plan = prune(small, tokens(), SETTINGS).plan
    widths_only = dataclasses.replace(plan, kept_neurons=None, kept_groups=None)
    prune(small, tokens(), SETTINGS, plan=widths_only)
    assert not caplog.records
    prune(build(intermediate_size=128), tokens(), SETTINGS, plan=widths_only)
    assert "the plan says that it removes" in caplog.text


@pytest.mark.parametrize("value", [0, Path("cuda"), torch.device("cpu")])
def test_what_is_no_string_is_named_in_its_refusal(value):
    for name, call in {
        "model_name": lambda: prune(build(), tokens(4, 32), SETTINGS, model_name=value),
        "device": lambda: Settings(device=value),
    }.items():
        with pytest.raises(InputError, match=f"^expected {name} to be ") as error:
            call()
        assert error.value.got == repr(value)


@pytest.mark.parametrize(
    ("value", "hint"), [("no", "write it without quotes"), (1, "such as inplace=True"), (None, "such as")]
)
def test_the_hint_for_a_switch_suits_the_value(value, hint):
    with pytest.raises(InputError, match="inplace to be True or False") as error:
        prune(build(), tokens(4, 32), SETTINGS, inplace=value)
    assert error.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("value", "hint"), [(0, "the smallest is 1"), (2.0, "such as 1"), ("2", "write it without quotes")]
)
def test_the_hint_for_a_whole_number_suits_the_value(value, hint):
    with pytest.raises(InputError, match="sequences as a whole number above 0") as error:
        Calibration("shipped", sequences=value)
    assert error.value.hint == hint


@pytest.mark.usefixtures("own_cache")
def test_none_is_a_word_of_the_command_line_alone(parent, tmp_path):
    with pytest.raises(InputError, match="got 'none'"):
        text = Calibration("shipped", sequences=2, length=32)
        prune_model(parent, tmp_path / "out", judged_on="none", multiple=4, calibration=text)
    assert not (tmp_path / "out").exists()


def test_a_text_as_long_as_the_context_is_taken():
    model = build()
    ids = tokens(4, 128)
    assert measure_loss(model, ids).token_count == 4 * 127
    prune(model, ids, SETTINGS)


def test_a_metric_of_ones_own_may_be_registered_again(monkeypatch):
    monkeypatch.setitem(METRICS, "loudest", None)  # it goes with the test
    for keep_first in (True, False):

        @metric("loudest")
        def loudest(problem, keep, generator, keep_first=keep_first):
            return keep_first

        assert METRICS["loudest"] is loudest


@pytest.mark.parametrize("name", ["", " mine", "a,b", "x/y", 3, "mine!", "größe"])
def test_a_metric_has_a_name_that_can_be_typed(name):
    with pytest.raises(InputError, match="the name of a metric, of letters, digits, hyphens and underscores"):
        metric(name)


WRONG_ANSWERS = {
    "a Selection from the metric 'mine', got NoneType": lambda blocks, keep: None,
    "ascending numbers of 48 blocks": lambda blocks, keep: chosen(torch.arange(keep - 1), blocks),
    "ascending numbers of": lambda blocks, keep: chosen(torch.arange(keep).flip(0), blocks),
    "scores that are numbers": lambda blocks, keep: keep_highest(torch.full((blocks,), torch.nan), keep),
    "one score for each of 48 blocks": lambda blocks, keep: Selection(
        torch.arange(keep), torch.zeros(2 * blocks)
    ),
    "got scores of the shape": lambda blocks, keep: Selection(torch.arange(keep), torch.zeros(blocks, 2)),
    "a real score for each block, got a tensor of": lambda blocks, keep: keep_highest(
        torch.zeros(blocks, 2), keep
    ),
    "two tensors from the metric 'mine', got list": lambda blocks, keep: chosen([*range(keep)], blocks),
    "whole numbers": lambda blocks, keep: chosen(torch.arange(keep).float(), blocks),
}


def chosen(kept, blocks):
    return Selection(kept, torch.zeros(blocks))


@pytest.mark.parametrize("complaint", WRONG_ANSWERS)
def test_what_a_metric_of_ones_own_returns_is_checked_at_the_first_layer(monkeypatch, complaint):
    answer = WRONG_ANSWERS[complaint]
    monkeypatch.setitem(METRICS, "mine", lambda problem, keep, generator: answer(problem.block_count, keep))
    finished = []
    settings = dataclasses.replace(SETTINGS, method="mine")
    with pytest.raises(InputError, match=complaint):
        prune(build(), tokens(4, 32), settings, progress=lambda *step: finished.append(step))
    assert not finished


@pytest.mark.parametrize("preset", PRESETS)
def test_nobody_can_change_a_preset(preset):
    with pytest.raises(TypeError):
        PRESETS[preset]["aim"] = "dense"
    with pytest.raises(TypeError):
        PRESETS[preset] = {}
    assert Settings(**PRESETS[preset]) == Settings.preset(preset)
    assert CompleteSettings.preset(preset) == Settings.preset(preset)


def test_a_preset_takes_changes_and_the_recovery_of_a_method():
    assert Settings.preset("stock", ratio=0.3) == Settings(ratio=0.3, widths="uniform", aim="auto")
    tailored = Settings.preset("tailored", ratio=0.3).completed()
    assert tailored == Settings.preset(ratio=0.3).completed() == Settings(ratio=0.3).completed()
    assert Settings.preset("stock", method="wanda-sp").completed().recovery == "none"
    assert Settings.preset("stock", method="wanda-sp", recovery="mask").recovery == "mask"
    assert Settings.preset("paper").recovery == "mask"
    assert Settings.preset("best", aim="self").aim == "self"


def test_type_checkers_know_the_fields_of_settings_and_the_presets():
    fields = {field.name: field.type for field in dataclasses.fields(Settings)}
    changes = {name: reference.__forward_arg__ for name, reference in SettingsChanges.__annotations__.items()}
    assert changes == fields
    assert {*typing.get_args(PresetName)} == PRESETS.keys()


@pytest.mark.parametrize("training", [True, False])
def test_models_are_judged_in_evaluation_mode_and_get_their_modes_back(training):
    models = [build(attention_dropout=0.5), build(attention_dropout=0.5)]
    ids = tokens(2, 24)
    expected = compare_losses(*models, ids)
    for model in models:
        model.train(training)
        model.model.layers[1].eval()  # a module may have a mode of its own
    modes = [[module.training for module in model.modules()] for model in models]
    torch.manual_seed(0)
    assert compare_losses(*models, ids) == expected
    assert measure_loss(models[0], ids).loss == expected.loss
    assert [[module.training for module in model.modules()] for model in models] == modes
