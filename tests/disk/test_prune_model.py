"""`prune_model`: what it saves in which dtype, what its verdict says, and docs/python.md, run word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command import FEW, ran, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from variants import build

from comp_lib import Calibration, prune_model
from comp_lib.calibration.texts import DATA_FOLDERS, KINDS, load_text
from comp_lib.calibration.windows import calibration_tokens, windows_of
from comp_lib.comp import prune
from comp_lib.errors import InputError
from comp_lib.evaluation.by_kind import judge
from comp_lib.importance.neurons import METRICS
from comp_lib.models.export import export_gguf
from comp_lib.settings import MOST_TOKENS
from comp_lib.shape import Shape

SMALL = {"calibration": Calibration("calibration", sequences=8, length=24), "multiple": 4}
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@pytest.fixture(scope="module")
def wide(tiny_llama, tokenizer, tmp_path_factory):
    """`wide(dtype)`: a tiny Llama that takes the defaults, saved in that dtype."""

    def saved(dtype):
        folder = tmp_path_factory.mktemp("models") / str(dtype)
        tiny_llama(max_position_embeddings=512, intermediate_size=256).to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return saved


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", DTYPES)
def test_a_folder_is_saved_as_its_parent_is_and_what_was_not_refitted_is_the_same(kind, wide, tmp_path):
    parent = wide(DTYPES[kind])
    done = prune_model(parent, tmp_path / "small", evaluated="none", **SMALL)
    assert done.stored == (kind, kind) and done.megabytes[1] < done.megabytes[0]
    old, new = weights(parent), weights(tmp_path / "small")
    assert {value.dtype for value in new.values()} == {DTYPES[kind]}
    assert torch.equal(new["model.embed_tokens.weight"], old["model.embed_tokens.weight"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert (
        model.dtype == DTYPES[kind] and sum(value.nbytes for value in new.values()) < done.megabytes[1] * 1e6
    )
    full = prune_model(parent, tmp_path / "again", evaluated="none", **SMALL, dtype="bfloat16")
    assert full.stored[1] == ("BF16" if kind == "F32" else kind)  # in no more bytes than it was computed in


@pytest.mark.parametrize(("kind", "stored"), [("f16", "F16"), ("q8_0", "BF16")])
def test_a_gguf_file_becomes_16_bits(kind, stored, wide, tmp_path):
    file = export_gguf(wide(torch.float32), tmp_path / "m.gguf", kind)
    done = prune_model(file, tmp_path / "small", evaluated="none", **SMALL)
    assert done.stored == (kind.upper(), stored) and done.megabytes[0] == file.stat().st_size / 1e6
    assert ("the parent as BF16" in str(done)) == (kind == "q8_0")


def test_the_verdict_is_what_the_files_are_and_the_command_says_the_same(wide, tokenizer, tmp_path):
    parent = wide(torch.bfloat16)
    done = prune_model(parent, tmp_path / "small", **SMALL)
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (tmp_path / "small", parent)
    ]
    found = judge(models[0].eval(), windows_of("kinds", tokenizer, 256, 2), models[1].eval())
    assert list(done.by_text) == [*KINDS, "mean of 8"]
    for kind, values in done.by_text.items():
        wanted = found.mean if kind == "mean of 8" else found.kinds[kind].values()
        assert values == pytest.approx({name: wanted[name] for name in values}, abs=1e-4)
    lines = str(done).splitlines()
    assert (
        len(lines) <= 13 and lines[-1] == f"next: comp-lib evaluate {tmp_path / 'small'} --against {parent}"
    )
    assert f"{done.by_text['mean of 8']['increase']:+.3f}, mean of 8" in str(done) and "BF16" in lines[4]
    flags = [*FEW[:-4], "--calibration", "calibration", "--out"]
    told = json.loads(ran("prune", parent, *flags, tmp_path / "other", "--json").stdout)
    mine = json.loads(json.dumps(done.numbers()))
    different = {name for name in told if told[name] != mine[name]}
    assert told.keys() == mine.keys() and different <= {"folder", "next", "seconds"}
    assert told["megabytes"]["after"] == (tmp_path / "other" / "model.safetensors").stat().st_size / 1e6


def test_one_text_has_no_kinds(parent, tmp_path):
    done = prune_model(parent, tmp_path / "small", **SMALL, evaluated="evaluation:code")
    assert list(done.by_text) == ["evaluation:code"] and "by kind" not in str(done)


def test_the_card_tells_the_command_and_the_share_of_each_text(wide, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "mine.txt").write_text(load_text("evaluation"), "utf-8")
    parent = wide(torch.float32)
    source = f"shipped+{tmp_path / 'secret' / 'mine.txt'}"
    text = Calibration(source, sequences=16, length=24)
    done = prune_model(
        parent, tmp_path / "small", 0.1, evaluated="none", calibration=text, method="wanda-sp"
    )
    card = (tmp_path / "small" / "README.md").read_text("utf-8")
    words = (
        f"comp-lib prune {parent.name} --out small --ratio 0.1 --preset stock --calibration shipped+mine.txt "
    )
    assert words + "--evaluate none --sequences 16 --length 24 --method wanda-sp\n" in card
    assert "calibration 10%" in card and "calibration:code 5%" in card and "mine.txt 50%)" in card
    assert str(tmp_path) not in card and f"multiple {done.report.settings['multiple']}," in card
    prune_model(parent, tmp_path / "python", evaluated="none", **SMALL, ridge=0.1)  # which no flag says
    assert "comp-lib prune" not in (tmp_path / "python" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("most", "told", "sequences"),
    [
        (9999, {}, 200),
        (4700, {}, 196),
        (99, {}, 5),
        (9, {"sequences": 8}, 8),
        (9, {"source": "calibration"}, 128),
    ],
)
def test_wide_layers_get_more_text_by_default(parent, tmp_path, monkeypatch, most, told, sequences):
    monkeypatch.setattr("comp_lib.disk.prune_model.PER_NEURON", 100)  # of 48 neurons
    monkeypatch.setattr("comp_lib.disk.prune_model.MOST_TOKENS", most)
    text = Calibration(**{"source": "shipped", "length": 24} | told)
    verdict = prune_model(
        parent, tmp_path / "small", calibration=text, method="random", multiple=4, evaluated="none"
    )
    assert verdict.report.tokens == 24 * sequences


def test_flap_goes_without_biases_where_the_family_has_none(tokenizer, tmp_path):
    build("qwen2", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    done = prune_model(tmp_path / "qwen", tmp_path / "small", method="flap", evaluated="none", **SMALL)
    assert done.report.settings["recovery"] == "none"


def test_the_mixtures_have_as_many_tokens_as_wide_layers_get(real_model):
    ids = calibration_tokens("shipped", real_model[1], sequences=MOST_TOKENS // 256, length=256)
    assert ids.numel() == MOST_TOKENS


@pytest.mark.parametrize(
    "curve",
    [lambda x: 5 * x**2, lambda x: 0.9 * x, lambda x: x**4 - 0.01, lambda x: x**2 / (x < 0.4 or torch.nan)],
)
@pytest.mark.parametrize("at_most", [0.02, 0.2])
def test_at_most_finds_what_may_go_by_few_prunings(parent, tmp_path, monkeypatch, curve, at_most):
    seen, dense = {}, Shape.of(AutoModelForCausalLM.from_pretrained(parent)).decoder

    def stand_in(model, windows):
        gone = 1 - Shape.of(model).decoder / dense
        seen[gone] = curve(gone) if gone else 0.0
        return SimpleNamespace(mean={"loss": 3.0 + seen[gone]})

    monkeypatch.setattr("comp_lib.disk.at_most.judge", stand_in)
    text = Calibration("calibration", sequences=4, length=24)
    done = prune_model(
        parent,
        tmp_path / "small",
        at_most=f"{at_most}nats",
        calibration=text,
        method="random",
        multiple=1,
    )
    assert len(seen) <= 6 and done.plan.removed == pytest.approx(
        max(gone for gone in seen if seen[gone] <= at_most)
    )
    dearer, last = [gone for gone, cost in seen.items() if cost > at_most], done.plan.removed
    assert curve(last) >= 0.9 * at_most or (min(dearer) - last < 0.08 if dearer else len(seen) == 6)
    command = re.search(r"--ratio (\S+)", (tmp_path / "small" / "README.md").read_text("utf-8"))
    assert float(command[1]) == done.plan.ratio and done.plan.removed - done.plan.ratio < 0.02


def test_at_most_out_of_reach_says_what_the_smallest_step_costs(parent, tmp_path, monkeypatch):
    losses = iter([3.0, 3.9, 3.8, 3.7, 3.5])
    monkeypatch.setattr(
        "comp_lib.disk.at_most.judge",
        lambda model, windows: SimpleNamespace(mean={"loss": next(losses)}),
    )
    words = ["--at-most", "0.01", *FEW[:4], "--multiple", "1", "--calibration", "calibration"]
    done = run("prune", parent, "--out", tmp_path / "small", *words)
    assert done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("comp-lib: expected --at-most")
    assert "got 0.01, where 1.2% of the decoder costs 0.500 already: allow more" in done.stderr
    asked = re.findall(r"ratio (\S+): \+(\S+) nats: (\d) of 5", done.stderr)
    assert asked == [
        ("0.200", "0.900", "1"),
        ("0.050", "0.800", "2"),
        ("0.013", "0.700", "3"),
        ("0.010", "0.500", "4"),
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda model, out: prune("smollm2-135m", None),
            "expected a model, got str: .*prune_model takes a name",
        ),
        (lambda model, out: prune(model, None), "expected calibration tokens.*got NoneType"),
        (lambda model, out: prune_model(model, out), "name or the folder.*LlamaForCausalLM"),
        (lambda model, out: prune_model("no-such-model", out), "nothing of that name"),
        (lambda model, out: prune_model("smollm2-135m", out, preset="beast"), "did you mean 'best'"),
        (
            lambda model, out: prune_model("smollm2-135m", out, preset=["best"]),
            r"another preset, got .\['best'\]",
        ),
        (lambda model, out: prune_model("smollm2-135m", out, method=["comp"]), r"method.*got \['comp'\]"),
        (
            lambda model, out: prune_model("smollm2-135m", out, 0.2, at_most=0.1),
            "or --at-most, got 0.2 and 0.1",
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
            lambda model, out: prune_model("smollm2-135m", out, at_most=1, evaluated="none"),
            "leave --evaluate out",
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
def test_what_is_no_model_is_refused_in_one_line(call, words, tiny_llama, tmp_path):
    with pytest.raises(InputError, match=words) as error:
        call(tiny_llama(), tmp_path / "out")
    assert len(str(error.value)) < 300 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_the_page_on_python_runs_as_it_stands(wide, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text("utf-8")
    parent, known = wide(torch.bfloat16), {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(METRICS, "loudest", None)  # it goes with the test
    data = next(folder for folder in DATA_FOLDERS if folder.is_dir())
    for name, text in (("mine.txt", "calibration.txt"), ("judge.txt", "evaluation.txt")):
        (tmp_path / name).write_text((data / text).read_text("utf-8"), "utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block.replace('"smollm2-135m"', repr(str(parent))), "docs/python.md", "exec"), known)
