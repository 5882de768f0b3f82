"""`prune_model`: the dtype of what it saves, what its verdict says, and docs/python.md, run word for word."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import exp
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from command import QUICK_FLAGS, content, ran
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from variants import build, tokens

from comp_lib import Calibration, prune_model
from comp_lib.calibration.texts import DATA_FOLDERS, KINDS, load_text
from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.from_disk.ratio_search import SMALLEST_RATIO
from comp_lib.checkpoints.from_disk.run_options import checked_options
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.windows import windows_of
from comp_lib.importance.neuron_metrics import METRICS
from comp_lib.pruning.comp import prune
from comp_lib.pruning.methods import METHODS
from comp_lib.pruning.settings import MAX_TOKENS, PRESETS, Settings
from comp_lib.utils.errors import InputError

QUICK_OPTIONS = {"calibration": Calibration("calibration", sequences=8, length=24), "multiple": 4}
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@pytest.fixture(scope="module")
def saved_llama(tiny_llama, tokenizer, tmp_path_factory):
    """`saved_llama(dtype)`: a tiny Llama that takes the defaults, saved in that dtype."""

    def save(dtype):
        folder = tmp_path_factory.mktemp("models") / str(dtype)
        tiny_llama(max_position_embeddings=512, intermediate_size=256).to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", DTYPES)
def test_a_folder_is_saved_as_its_parent_is_and_only_refitted_weights_change(kind, saved_llama, tmp_path):
    parent = saved_llama(DTYPES[kind])
    verdict = prune_model(parent, tmp_path / "small", judged_on=None, **QUICK_OPTIONS)
    assert (verdict.parent_stored_type, verdict.stored_type) == (kind, kind)
    assert verdict.megabytes < verdict.parent_megabytes
    old = weights(parent)
    new = weights(tmp_path / "small")
    assert {value.dtype for value in new.values()} == {DTYPES[kind]}
    assert torch.equal(new["model.embed_tokens.weight"], old["model.embed_tokens.weight"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert model.dtype == DTYPES[kind]
    assert sum(value.nbytes for value in new.values()) < verdict.megabytes * 1e6
    in_bfloat16 = prune_model(parent, tmp_path / "again", judged_on=None, **QUICK_OPTIONS, dtype="bfloat16")
    # it is not saved in more bytes than it was computed in
    assert in_bfloat16.stored_type == {"F32": "BF16", "BF16": "BF16", "F16": "F16"}[kind]


@pytest.mark.parametrize(("kind", "stored"), [("f16", "F16"), ("q8_0", "BF16")])
def test_a_gguf_file_becomes_16_bits(kind, stored, saved_llama, tmp_path):
    file = export_gguf(saved_llama(torch.float32), tmp_path / "m.gguf", kind)
    verdict = prune_model(file, tmp_path / "small", judged_on=None, **QUICK_OPTIONS)
    assert (verdict.parent_stored_type, verdict.stored_type) == (kind.upper(), stored)
    assert verdict.parent_megabytes == file.stat().st_size / 1e6
    assert (f"m.gguf itself: {verdict.parent_megabytes:.1f} MB, Q8_0" in str(verdict)) == (kind == "q8_0")
    (line,) = (line for line in str(verdict).splitlines() if line.startswith(f"weights, {stored} "))
    assert re.findall(r"([\d.]+) MB  ", f"{line}  ")[0] == f"{verdict.parent_megabytes_in_new_type:.1f}"
    # what the parent would take in the same type, so that nothing seems to grow
    in_16_bits = verdict.parent_shape.total_parameters * 2 / 1e6
    assert verdict.parent_megabytes_in_new_type == pytest.approx(in_16_bits, rel=0.1)
    assert verdict.megabytes < verdict.parent_megabytes_in_new_type


@pytest.fixture(scope="module")
def judged_on_kinds(saved_llama, tmp_path_factory):
    """A parent, and the verdict on what was pruned from it, by all kinds of text."""
    parent = saved_llama(torch.bfloat16)
    return parent, prune_model(parent, tmp_path_factory.mktemp("judged") / "small", **QUICK_OPTIONS)


def test_the_verdict_is_that_of_the_files(judged_on_kinds, tokenizer):
    parent, verdict = judged_on_kinds
    small, dense = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (verdict.path, parent)
    )
    judgement = judge(small, windows_of("kinds", tokenizer, 256, 2), dense)
    assert tuple(verdict.quality.texts) == KINDS
    for kind, evaluation in verdict.quality.texts.items():
        expected = judgement.texts[kind]
        assert evaluation.token_count == expected.token_count
        for name, values in evaluation.by_sequence.items():
            assert values == pytest.approx(expected.by_sequence[name], abs=1e-4)
        assert evaluation.increase == pytest.approx(expected.increase, abs=1e-4)
    losses = verdict.as_dict()["loss"]
    assert list(losses) == [*KINDS, "mean"]
    for name in ("dense_loss", "loss", "increase"):
        assert losses["code"][name] == pytest.approx(getattr(judgement.texts["code"], name), abs=1e-4)
        assert losses["mean"][name] == pytest.approx(getattr(judgement.mean, name), abs=1e-4)


def test_settings_as_a_value_do_what_their_fields_do(parent, tmp_path):
    text = Calibration("calibration", sequences=8, length=24)
    wish = Settings(0.3, method="wanda-sp", recovery="mask", multiple=4, kv_groups=1)
    by_value = prune_model(parent, tmp_path / "value", settings=wish, calibration=text, judged_on=None)
    fields = {"method": "wanda-sp", "recovery": "mask", "multiple": 4, "kv_groups": 1}
    by_fields = prune_model(parent, tmp_path / "fields", 0.3, calibration=text, judged_on=None, **fields)
    assert by_value.plan == by_fields.plan
    assert by_value.report.settings == by_fields.report.settings
    weights = [content(tmp_path / name)["model.safetensors"] for name in ("value", "fields")]
    assert weights[0] == weights[1]


def options_of(settings, at_most=None):
    """The options of a call with these settings and nothing else."""
    return checked_options(
        settings=settings,
        ratio=None,
        at_most=at_most,
        preset=None,
        calibration=Calibration(),
        judged_on="kinds",
        changes={},
        device=None,
        dtype="float32",
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_of_a_preset_get_its_amount_of_text(preset):
    assert options_of(Settings.preset(preset, ratio=0.3)).preset == preset


def test_at_most_replaces_the_ratio_of_settings():
    wish = Settings(0.3, method="wanda-sp")
    options = options_of(wish, at_most="0.2nats")
    assert options.at_most == 0.2
    assert options.settings == replace(wish, ratio=SMALLEST_RATIO)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.2}, "got both, with ratio"),
        ({"preset": "stock"}, "got both, with preset"),
        ({"method": "flap"}, "got both, with method"),
        ({"device": "auto"}, "got both, with device"),
    ],
)
def test_settings_and_their_fields_exclude_each_other(arguments, message, parent, tmp_path):
    with pytest.raises(InputError, match=message):
        prune_model(parent, tmp_path / "out", settings=Settings(), **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.allowed])
def test_a_card_has_no_setting_that_the_method_overrules(method, parent, tmp_path):
    """Such as uniform widths of a method that gives each layer its own."""
    text = Calibration("calibration", sequences=8, length=24)
    verdict = prune_model(parent, tmp_path / "out", 0.3, method=method, calibration=text, judged_on=None)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    (line,) = (line for line in card.splitlines() if "Settings: " in line)
    assert f"method {method}," in line
    assert not re.search(r"\b(widths|drop_layers|layer_metric) ", line)
    assert "recovery " in line
    assert verdict.report.settings.method == method


def test_the_verdict_prints_what_a_reader_needs(judged_on_kinds):
    parent, verdict = judged_on_kinds
    lines = str(verdict).splitlines()
    assert len(verdict.warnings) == 2, "the numbers of this parent are random"
    assert lines[-4:-2] == list(verdict.warnings)
    assert len(lines) <= 13 + len(verdict.warnings)
    assert lines[-1] == f"next: comp-lib evaluate {verdict.path} --against {parent}"
    assert lines[4].startswith("weights, BF16")
    assert "itself" not in str(verdict)
    assert not any(line.startswith(("layers", "KV groups")) for line in lines), "they have not changed"


def test_the_verdict_prints_the_loss_with_its_interval(judged_on_kinds):
    _, verdict = judged_on_kinds
    increase = verdict.quality.mean.increase
    low, high = verdict.quality.intervals.increase
    assert f"{increase:+.3f} ({low:.3f} to {high:.3f})" in str(verdict)
    assert f"times {exp(increase):.2f} ({exp(low):.2f} to {exp(high):.2f})" in str(verdict)
    # two windows of each kind are too few for an interval, and for three decimals
    assert "by kind, rough (2 windows each): prose " in str(verdict)
    assert f"code {verdict.quality.texts['code'].increase:+.2f}," in " ".join(str(verdict).split())


def test_the_command_says_what_the_function_returns(judged_on_kinds, tmp_path):
    parent, verdict = judged_on_kinds
    flags = [*QUICK_FLAGS[:-4], "--calibration", "calibration", "--out"]
    result = ran("prune", parent, *flags, tmp_path / "other", "--json")
    of_command = json.loads(result.stdout)
    assert len(of_command["warnings"]) == 2
    assert all(sentence in result.stderr for sentence in of_command["warnings"])
    low, high = of_command["increase_interval"]
    assert low < of_command["loss"]["mean"]["increase"] < high
    of_function = json.loads(json.dumps(verdict.as_dict()))
    assert of_command.keys() == of_function.keys()
    different = {name for name, value in of_command.items() if value != of_function[name]}
    assert different <= {"saved", "next", "seconds"}
    assert of_command["megabytes"]["after"] == (tmp_path / "other" / "model.safetensors").stat().st_size / 1e6


def test_one_text_judges_with_the_windows_that_it_has(parent, tokenizer, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text(load_text("evaluation:code")[:2000], "utf-8")
    verdict = prune_model(parent, tmp_path / "small", **QUICK_OPTIONS, judged_on=text)
    (evaluation,) = verdict.quality.texts.values()
    assert len(evaluation.losses) == len(windows_of(text, tokenizer, 128)[str(text)]) < 12


def test_a_verdict_on_one_text_has_no_kinds(parent, tmp_path):
    verdict = prune_model(parent, tmp_path / "small", **QUICK_OPTIONS, judged_on="evaluation:code")
    assert list(verdict.quality.texts) == list(verdict.as_dict()["loss"]) == ["evaluation:code"]
    assert "by kind" not in str(verdict)


def test_the_card_says_the_command_and_the_share_of_each_text(saved_llama, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "mine.txt").write_text(load_text("evaluation"), "utf-8")
    parent = saved_llama(torch.float32)
    source = f"shipped+{tmp_path / 'secret' / 'mine.txt'}"
    text = Calibration(source, sequences=16, length=24)
    verdict = prune_model(
        parent, tmp_path / "small", 0.1, judged_on=None, calibration=text, method="wanda-sp"
    )
    card = (tmp_path / "small" / "README.md").read_text("utf-8")
    command = (
        f"comp-lib prune {parent.name} --out small --ratio 0.1 --preset stock --calibration shipped+mine.txt "
        "--judged-on none --sequences 16 --length 24 --method wanda-sp\n"
    )
    assert command in card
    assert "calibration 10%" in card
    assert "calibration:code 5%" in card
    assert "mine.txt 50%)" in card
    assert str(tmp_path) not in card
    assert f"multiple {verdict.report.settings.multiple}," in card
    # no flag sets a ridge
    prune_model(parent, tmp_path / "python", judged_on=None, **QUICK_OPTIONS, ridge=0.1)
    assert "comp-lib prune" not in (tmp_path / "python" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(("preset", "has_command"), [("stock", True), (None, True), ("paper", False)])
def test_layers_auto_is_said_by_no_command_where_the_preset_has_a_number(
    preset, has_command, parent, tmp_path
):
    """`--drop-layers` takes no "auto", and without it the number of the preset counts."""
    prune_model(
        parent, tmp_path / "small", judged_on=None, **QUICK_OPTIONS, preset=preset, drop_layers="auto"
    )
    card = (tmp_path / "small" / "README.md").read_text("utf-8")
    assert ("comp-lib prune" in card) == has_command
    assert "--drop-layers" not in card


@pytest.mark.parametrize(
    ("limit", "options", "sequences"),
    [
        (9999, {}, 200),
        (4700, {}, 196),
        (99, {}, 5),
        (9, {"sequences": 8}, 8),
        (9, {"source": "calibration"}, 128),
    ],
)
def test_wide_layers_get_more_text_by_default(parent, tmp_path, monkeypatch, limit, options, sequences):
    monkeypatch.setattr("comp_lib.checkpoints.from_disk.run_options.TOKENS_PER_NEURON", 100)  # of 48 neurons
    monkeypatch.setattr("comp_lib.checkpoints.from_disk.run_options.MAX_TOKENS", limit)
    text = Calibration(**{"source": "shipped", "length": 24} | options)
    verdict = prune_model(
        parent, tmp_path / "small", calibration=text, method="random", multiple=4, judged_on=None
    )
    assert verdict.report.token_count == 24 * sequences


def test_flap_goes_without_biases_where_the_family_has_none(tokenizer, tmp_path):
    build("qwen2", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    verdict = prune_model(
        tmp_path / "qwen", tmp_path / "small", method="flap", judged_on=None, **QUICK_OPTIONS
    )
    assert verdict.report.settings.recovery == "none"
    model = build("qwen2", vocab_size=len(tokenizer))
    in_memory = prune(model, tokens(), Settings(method="flap", multiple=4))
    assert in_memory.report.settings.recovery == "none"


def test_the_mixtures_have_as_many_tokens_as_wide_layers_get(real_model):
    ids = calibration_tokens("shipped", real_model[1], sequences=MAX_TOKENS // 256, length=256)
    assert ids.numel() == MAX_TOKENS


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model, out: prune("smollm2-135m", None),
            "expected a model, got str: .*prune_model takes a name",
        ),
        (lambda model, out: prune(model, None), "expected tokens, .*got NoneType"),
        (lambda model, out: prune_model(model, out), "name or the folder.*LlamaForCausalLM"),
        (lambda model, out: prune_model("no-such-model", out), "nothing of that name"),
        (lambda model, out: prune_model("smollm2-135m", out, preset="beast"), "did you mean 'best'"),
        (
            lambda model, out: prune_model("smollm2-135m", out, preset=["best"]),
            r"preset to be one of stock, .*, paper, got \['best'\]",
        ),
        (lambda model, out: prune_model("smollm2-135m", out, method=["comp"]), r"method.*got \['comp'\]"),
        (
            lambda model, out: prune_model("smollm2-135m", out, 0.2, at_most=0.1),
            "ratio or at_most, got 0.2 and 0.1",
        ),
        (
            lambda model, out: prune_model("smollm2-135m", out, calibration=Calibration(length="256")),
            "length as a whole number.*got '256'",
        ),
        (
            lambda model, out: prune_model("smollm2-135m", out, calibration=Calibration(sequences=0)),
            "sequences as a whole number.*got 0",
        ),
        (
            lambda model, out: prune_model("smollm2-135m", out, at_most=1, judged_on=None),
            "a text that judges, for at_most, got none: name a text, or let every kind of text judge",
        ),
        *[
            (
                lambda model, out, wrong=wrong: prune_model("smollm2-135m", out, at_most=wrong),
                f"above 0.*got {wrong!r}",
            )
            for wrong in ("0", "-0.2nats", "a little", "nan", "inf")
        ],
    ],
)
def test_a_call_that_makes_no_sense_is_refused_in_one_line(call, message, tiny_llama, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        call(tiny_llama(), tmp_path / "out")
    assert len(str(error.value)) < 300
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_the_page_on_python_runs_as_it_stands(saved_llama, tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "python.md").read_text("utf-8")
    parent = saved_llama(torch.bfloat16)
    namespace = {}
    monkeypatch.chdir(tmp_path)
    data = next(folder for folder in DATA_FOLDERS if folder.is_dir())
    for name, text in (("mine.txt", "calibration.txt"), ("judge.txt", "evaluation.txt")):
        (tmp_path / name).write_text((data / text).read_text("utf-8"), "utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 12, "the page has so many examples"
    with patch.dict(METRICS):  # the page registers a metric, which must not outlive this test
        for block in blocks:
            code = block.replace('"smollm2-135m"', repr(str(parent)))
            exec(compile(code, "docs/python.md", "exec"), namespace)
