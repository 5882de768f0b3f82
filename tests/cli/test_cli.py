"""The command line: what its commands do on a tiny model. What they refuse: `hostile/test_calls.py`."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
from command import QUICK_FLAGS, content, ran, refused, run
from transformers import AutoModelForCausalLM
from typer.models import OptionInfo

from comp_lib.calibration import windows
from comp_lib.calibration.texts import load_text
from comp_lib.checkpoints import load
from comp_lib.checkpoints.from_disk import prune_model
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.cli.app import app
from comp_lib.cli.console import as_typed_here
from comp_lib.cli.prune import _fate_of_the_fact
from comp_lib.decoder.shape import Shape
from comp_lib.evaluation.loss import compare_losses
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.importance.layers import block_influence
from comp_lib.reports import plots

pytestmark = pytest.mark.slow

COMMANDS = [command.callback for command in app.registered_commands]
SIGNATURES = {command.__name__: inspect.signature(command, eval_str=True) for command in COMMANDS}


def test_there_are_ten_commands_with_few_flags():
    assert (
        list(SIGNATURES) == "demo inspect prune evaluate generate compare export report heal doctor".split()
    )
    for name, signature in SIGNATURES.items():
        declared = [parameter.annotation.__metadata__[0] for parameter in signature.parameters.values()]
        flags = sum(isinstance(declaration, OptionInfo) for declaration in declared)
        assert flags <= {"prune": 17, "compare": 15, "report": 12, "heal": 12}.get(name, 11), name


# --- prune --------------------------------------------------------------------------------------------------


# comp looks at a layer at a time, llm-pruner at the whole model
@pytest.mark.parametrize("method", ["comp", "llm-pruner"])
def test_prune_writes_a_smaller_model_and_says_what_it_did(parent, tmp_path, method):
    folder = tmp_path / "small"
    flags = ["--method", method, *QUICK_FLAGS, "--judged-on", "evaluation"]
    output = ran("prune", parent, "--out", folder, *flags).output
    before = Shape.of(AutoModelForCausalLM.from_pretrained(parent))
    after = Shape.of(load.load_model(folder)[0])
    removed = 1 - after.decoder_parameters / before.decoder_parameters
    assert removed >= 0.2
    for part in (
        f"{after.total_parameters:,}",
        f"removed by {method}, in ",
        f"saved: {folder}\n",
        "loss, nats/token",
    ):
        assert part in output
    plan = Plan.load(folder / "comp_plan.json")
    assert plan.neurons == after.neurons
    assert plan.removed == pytest.approx(removed)
    card = (folder / "README.md").read_text("utf-8")
    assert "| perplexity on evaluation (" in card
    assert "8 x 24 tokens of calibration, drawn with seed 0" in card


def test_by_default_layers_have_widths_of_their_own_and_transformers_loads_them(parent, tmp_path):
    folder = tmp_path / "m"
    ran("prune", parent, "--out", folder, *QUICK_FLAGS)
    card = (folder / "README.md").read_text("utf-8")
    assert "widths estimated," in card
    assert "--preset tailored " in card
    neurons = Plan.load(folder / "comp_plan.json").neurons
    assert len(set(neurons)) > 1
    code = f"""
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)
print([layer.mlp.down_proj.in_features for layer in model.model.layers])
print("comp_lib" in sys.modules)
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [str(list(neurons)), "False"]


def test_a_method_of_others_has_one_width_by_default(parent, tmp_path):
    ran("prune", parent, "--out", tmp_path / "m", "--method", "wanda-sp", *QUICK_FLAGS)
    assert "widths uniform," in (tmp_path / "m" / "README.md").read_text("utf-8")
    assert len(set(Plan.load(tmp_path / "m" / "comp_plan.json").neurons)) == 1


# comp has the recovery of its preset: see the test after this
@pytest.mark.parametrize(("method", "recovery"), [("flap", "bias"), ("wanda-sp", "none")])
def test_each_method_recovers_as_its_makers_do(parent, tmp_path, method, recovery):
    ran("prune", parent, "--out", tmp_path / "m", "--method", method, *QUICK_FLAGS)
    assert f"recovery {recovery}," in (tmp_path / "m" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("preset", ["best", "paper"])
def test_each_preset_is_carried_out(parent, tmp_path, preset):
    flags = ["--preset", preset, "--drop-layers", "1", "--kv-groups", "1", *QUICK_FLAGS]
    ran("prune", parent, "--out", tmp_path / "m", *flags)
    plan = Plan.load(tmp_path / "m" / "comp_plan.json")
    assert len(plan.layers) == 2
    assert plan.kv_groups == (1, 1)
    recovery = "mask" if preset == "paper" else "least-squares"
    assert f"recovery {recovery}," in (tmp_path / "m" / "README.md").read_text("utf-8")


def test_the_best_preset_takes_twice_the_text_unless_a_number_is_given(parent, tmp_path):
    flags = "--length 4 --multiple 4 --judged-on none --calibration calibration --preset best".split()
    for name, number, size in (("default", [], "256 x 4"), ("given", ["--sequences", "8"], "8 x 4")):
        ran("prune", parent, "--out", tmp_path / name, *flags, *number)
        assert f"{size} tokens" in (tmp_path / name / "README.md").read_text("utf-8")


def test_a_hint_names_the_flag_of_a_setting(parent, tmp_path):
    wrong = ["--multiple", "49", "--sequences", "2", "--length", "8"]
    phrase = "got 49: leave multiple (--multiple) out"
    refused(run("prune", parent, "--out", tmp_path / "m", *wrong), [phrase])


def test_a_full_folder_is_kept_unless_overwrite(parent, tmp_path):
    out = tmp_path / "out"
    ran("prune", parent, "--out", out, *QUICK_FLAGS)
    before = content(out)
    refused(
        run("prune", parent, "--out", out, *QUICK_FLAGS, "--ratio", "0.3"), ["or set overwrite (--overwrite)"]
    )
    assert content(out) == before
    ran("prune", parent, "--out", out, *QUICK_FLAGS, "--ratio", "0.3", "--overwrite")
    assert content(out)["comp_plan.json"] != before["comp_plan.json"]


def test_the_model_writes_its_text_only_where_it_fits(parent, tmp_path, monkeypatch, own_cache):
    ran("prune", parent, "--out", tmp_path / "m", *QUICK_FLAGS[:-1], "self")
    assert "tokens of self" in (tmp_path / "m" / "README.md").read_text("utf-8")
    monkeypatch.setattr(load, "free_memory", lambda: 1000)
    refused(
        run("prune", parent, "--out", tmp_path / "n", *QUICK_FLAGS[:-1], "general"),
        ["free memory", "shipped"],
    )
    assert not (tmp_path / "n").exists()


def test_a_full_folder_is_refused_before_any_text_is_written(parent, tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    monkeypatch.setattr(windows, "calibration_tokens", lambda *_, **__: pytest.fail("text was drawn"))
    for method in ("comp", "llm-pruner"):
        refused(
            run("prune", parent, "--out", tmp_path / "m", "--method", method, *QUICK_FLAGS),
            ["with files in it"],
        )


# --- devices ------------------------------------------------------------------------------------------------

WITH_DEVICE = {
    "prune": ["--out", "nowhere", *QUICK_FLAGS],
    "inspect": [],
    "evaluate": ["--window-length", "64", "--window-count", "1"],
    "generate": ["--prompt", "The sea", "--tokens", "2"],
    "report": ["--out", "nowhere.html"],
    "heal": ["--parent", "nowhere", "--out", "nowhere"],
}


def test_a_device_that_is_not_here_is_refused_before_any_work(parent, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    # checkpoints.load comes last: the others import from it what is there
    for module in (
        "checkpoints.from_disk.heal_folder",
        "checkpoints.from_disk.prune_model",
        "reports.checkup.page",
        "checkpoints.load",
    ):
        monkeypatch.setattr(f"comp_lib.{module}.open_model", lambda *_, **__: pytest.fail("this is work"))
    with_device = {name for name, signature in SIGNATURES.items() if "device" in signature.parameters}
    assert with_device == WITH_DEVICE.keys()
    for name, flags in WITH_DEVICE.items():
        refused(run(name, parent, *flags, "--device", "cuda"), ["device", "cpu", "'cuda'"])


@pytest.mark.parametrize("name", ["prune", "report"])
def test_what_solves_refuses_a_device_without_float64(parent, monkeypatch, name):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    refused(run(name, parent, *WITH_DEVICE[name], "--device", "mps"), ["float64", "cpu", "'mps'"])


# --- the others ---------------------------------------------------------------------------------------------


def test_inspect_lists_every_layer(parent):
    output = ran("inspect", parent).stdout
    lines = [line for line in output.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    model, tokenizer = load.load_model(parent)
    shape = Shape.of(model)
    ids = windows.calibration_tokens("calibration", tokenizer, sequences=8, length=128)
    influence = block_influence(model, ids).tolist()
    expected = []
    for layer in range(3):
        counts = (layer, shape.neurons[layer], shape.kv_groups[layer], shape.parameters_of_layer(layer))
        expected.append([*(f"{count:,}" for count in counts), f"{influence[layer]:.4f}"])
    assert rows == expected
    assert f"{shape.decoder_parameters:,} in the decoder" in output


def test_generate_goes_on_from_the_prompt_of_a_folder_and_of_a_file(parent, tmp_path):
    file = tmp_path / "m.gguf"
    assert f"written: {file}\n" in ran("export", parent, "--gguf", file, "--type", "f32").stdout
    prompt = ("--prompt", "The sea", "--tokens", "5")
    text = ran("generate", parent, *prompt).stdout
    assert ran("generate", file, *prompt).stdout == text
    assert text.startswith("The sea")
    assert len(text.strip()) > len("The sea")


def test_export_fills_layers_up_to_one_width(parent, tmp_path):
    ran("prune", parent, "--out", tmp_path / "small", "--preset", "paper", "--drop-layers", "0", *QUICK_FLAGS)
    ran("export", tmp_path / "small", "--padded", tmp_path / "padded")
    neurons = Plan.load(tmp_path / "small" / "comp_plan.json").neurons
    padded = AutoModelForCausalLM.from_pretrained(tmp_path / "padded")
    assert len(set(neurons)) > 1
    assert padded.config.intermediate_size == max(neurons)
    refused(
        run("export", tmp_path / "small", "--padded", tmp_path / "padded"), ["or set overwrite (--overwrite)"]
    )
    refused(
        run("export", tmp_path / "small", "--padded", tmp_path / "q8", "--type", "q8_0"),
        ["--type with --gguf"],
    )
    weights = tmp_path / "small" / "model.safetensors"
    refused(run("export", tmp_path / "small", "--gguf", weights, "--overwrite"), ["ends in .gguf"])
    ran("export", tmp_path / "small", "--padded", tmp_path / "padded", "--overwrite")


def test_names_are_printed_as_they_are(parent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = ":smile: [link=a][bold]"  # what rich would take for its own markup
    assert f"saved: {name}\n" in ran("prune", parent, "--out", name, *QUICK_FLAGS).stdout
    assert f"{name}: " in ran("inspect", name).stdout
    assert f"written: {name}.gguf\n" in ran("export", name, "--gguf", f"{name}.gguf").stdout


# --- demo ---------------------------------------------------------------------------------------------------


@pytest.fixture
def included(tmp_path, tiny_llama, tokenizer, monkeypatch):
    """A tiny model stands in for the included one."""
    tiny_llama(max_position_embeddings=256).save_pretrained(tmp_path / "included")
    tokenizer.save_pretrained(tmp_path / "included")

    def instead(function):
        return lambda name, *options: function(
            tmp_path / "included" if name == INCLUDED_MODEL else name, *options
        )

    open_instead = instead(load.open_model)
    for module in (load, prune_model):
        monkeypatch.setattr(module, "open_model", open_instead)


@pytest.mark.parametrize("mine", ["model/precious.txt", "pruned.png", "kinds.png"])
def test_a_demo_refuses_what_is_there_before_it_measures(included, tmp_path, monkeypatch, mine):
    (tmp_path / "demo" / mine).parent.mkdir(parents=True)
    (tmp_path / "demo" / mine).write_text("mine")
    monkeypatch.setattr(windows, "calibration_tokens", lambda *_, **__: pytest.fail("this is work"))
    refused(run("demo", "--out", tmp_path / "demo"), ["or set overwrite (--overwrite)"])
    assert content(tmp_path / "demo") == {mine: b"mine"}


def test_a_demo_judges_every_kind_and_lets_both_models_speak(included, tmp_path, tokenizer, monkeypatch):
    calls = []

    def continuation(model, tokenizer, prompt, tokens):
        calls.append((prompt, Shape.of(model).decoder_parameters))
        return f" [i]word{len(calls)}"  # what rich would take for its own markup

    monkeypatch.setattr("comp_lib.evaluation.generation.continuation", continuation)
    pictures = []
    draw = plots.plot_pruned
    monkeypatch.setattr(plots, "plot_pruned", lambda *values: pictures.append(draw(*values)) or pictures[-1])
    output = ran("demo", "--out", tmp_path / "demo").stdout
    for picture in ("pruned.png", "kinds.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")
    card = (tmp_path / "demo" / "model" / "README.md").read_text("utf-8")
    assert "SmolLM2-135M-Instruct" in card
    assert "apache-2.0" in card
    dense, _ = load.load_model(tmp_path / "included")
    small, _ = load.load_model(tmp_path / "demo" / "model")
    sizes = [Shape.of(dense).decoder_parameters, Shape.of(small).decoder_parameters]
    assert sizes[1] < sizes[0]
    assert [size for _, size in calls] == 3 * sizes
    for part in ("of the decoder removed by comp", "pictures:", "The water cycle"):
        assert part in output
    assert all(f"[i]word{number}" in output for number in range(1, 7))
    code = compare_losses(small, dense, evaluation_tokens(tokenizer, load_text("evaluation:code"), 64, 10))
    row = next(line for line in output.splitlines() if line.startswith("│ code "))
    assert f"│ {code.dense_loss:.3f} │ {code.loss:.3f}" in row
    assert f"│ {code.increase:.3f}" in row
    assert "increase: loss - dense." in " ".join(output.split())
    assert "influence" not in pictures[0].alt_text, "the preset does not look at it"
    *_, sentence, remark, advice = output.splitlines()
    assert "48 sequences calibrated, where prune takes 128" in remark
    removed = 1 - sizes[1] / sizes[0]
    assert sentence.startswith(f"{removed:.0%} of the decoder is gone; perplexity times ")
    assert "France" not in sentence, "neither model knew it"
    assert advice.startswith("next: ")
    assert advice.endswith(f"comp-lib evaluate {tmp_path / 'demo' / 'model'} --against smollm2-135m")
    assert output.count("next: ") == 1


@pytest.mark.parametrize(
    ("answers", "fate"),
    [
        ((" Paris.", " Lyon."), ["the capital of France is lost"]),
        ((" Paris.", " It is Paris."), ["the capital of France is still there"]),
        ((" Lyon.", " Paris."), []),
    ],
)
def test_the_demo_says_of_a_fact_what_both_texts_show(answers, fate):
    assert _fate_of_the_fact(answers) == fate


def test_the_next_command_has_the_path_of_a_program_that_the_shell_does_not_find(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = "comp-lib evaluate m"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert as_typed_here(command) == command  # it is nowhere
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "comp-lib"
    program.touch(0o755)
    assert as_typed_here(command) == "bin/comp-lib evaluate m"
    monkeypatch.setenv("PATH", str(program.parent))
    assert as_typed_here(command) == command
