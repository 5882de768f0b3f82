"""The command line: what it does on a tiny model, and what it refuses, in one line, before anything is written."""

from __future__ import annotations

import copy
import inspect
import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from command import FEW, content, refused, run
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer import Argument, Context, Option, Typer
from typer.testing import CliRunner
from variants import build

from comp_lib.calibration.text import load_text
from comp_lib.cli import options, pruning
from comp_lib.cli.app import app
from comp_lib.cli.options import PruneOptions
from comp_lib.cli.pruning import PruneRun
from comp_lib.compare.grid import read_rows
from comp_lib.errors import InputError
from comp_lib.evaluation.loss import compare, evaluation_tokens
from comp_lib.models import load
from comp_lib.on_device import latency
from comp_lib.on_device.latency import CostModel
from comp_lib.plan import Plan
from comp_lib.scale import model_on_disk
from comp_lib.shape import Shape

SMALL = ["--sequences", "4", "--length", "32", "--multiple", "4", "--evaluate", "none"]


def test_prune_writes_a_smaller_stock_model_and_says_what_it_did(parent, tmp_path):
    done = run(
        "prune",
        parent,
        "--out",
        tmp_path / "small",
        "--ratio",
        "0.2",
        "--sequences",
        "4",
        "--length",
        "32",
        "--multiple",
        "4",
    )
    assert done.exit_code == 0, done.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    dense = AutoModelForCausalLM.from_pretrained(parent)
    before, after = Shape.of(dense), Shape.of(model)
    assert 1 - after.decoder / before.decoder >= 0.2
    assert f"{after.total:,}" in done.output
    plan = Plan.load(tmp_path / "small" / "comp_plan.json")
    assert plan.neurons == after.neurons and plan.removed == pytest.approx(1 - after.decoder / before.decoder)
    card = (tmp_path / "small" / "README.md").read_text()
    assert "Measured perplexity" in card and "evaluation" in card


def test_the_same_seed_writes_the_same_bytes(parent, tmp_path):
    for name in ("one", "two"):
        assert run("prune", parent, "--out", tmp_path / name / "m", *SMALL).exit_code == 0
    assert content(tmp_path / "one" / "m") == content(tmp_path / "two" / "m")


@pytest.mark.parametrize("method", ["magnitude", "wanda-sp", "random", "comp"])
@pytest.mark.parametrize("recovery", ["none", "mask", "least-squares"])
def test_every_method_with_every_recovery(parent, tmp_path, method, recovery):
    done = run(
        "prune",
        parent,
        "--out",
        tmp_path / "m",
        *SMALL,
        "--method",
        method,
        "--recovery",
        recovery,
        "--layers",
        "1",
        "--kv-groups",
        "1",
    )
    assert done.exit_code == 0, done.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert Shape.of(model).kv_groups == (1, 1)


def test_per_layer_widths_and_text_from_the_model_itself(parent, tmp_path, own_cache):
    done = run("prune", parent, "--out", tmp_path / "m", *SMALL, "--widths", "per-layer", "--calibration", "self")
    assert done.exit_code == 0, done.output
    assert "text written by the model itself" in (tmp_path / "m" / "README.md").read_text()
    layers = AutoModelForCausalLM.from_pretrained(tmp_path / "m").model.layers
    widths = tuple(layer.mlp.down_proj.in_features for layer in layers)
    assert widths == Plan.load(tmp_path / "m" / "comp_plan.json").neurons


def test_evaluate_against_itself(parent):
    done = run(
        "evaluate", parent, "--text", "evaluation", "--length", "64", "--sequences", "2", "--json", "--against", parent
    )
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert values["tokens"] == 2 * 63
    assert values["kl"] == pytest.approx(0.0, abs=1e-6) and values["top1_agreement"] == 1.0
    assert values["perplexity"] == pytest.approx(values["dense_perplexity"])
    assert values["increase"] == 0.0 and values["intervals"]["increase"] == [0.0, 0.0]
    low, high = values["intervals"]["loss"]
    assert low <= values["loss"] <= high and len(values["losses"]) == 2
    table = run("evaluate", parent, "--text", "evaluation", "--length", "64", "--sequences", "2").output
    assert "95% interval" in table and f"{low:.4f} to {high:.4f}" in table


def test_json_has_no_number_that_json_does_not_know(parent):
    """One window has no interval."""
    done = run("evaluate", parent, "--text", "evaluation", "--length", "64", "--sequences", "1", "--json")
    values = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))
    assert done.exit_code == 0 and values["intervals"]["loss"] == [None, None] and values["loss"] > 0


def test_inspect_lists_every_layer(parent):
    values = json.loads(run("inspect", parent, "--sequences", "2", "--length", "16", "--json").stdout)
    assert [row["layer"] for row in values["layers"]] == [0, 1, 2]
    assert sum(row["parameters"] for row in values["layers"]) == values["decoder"]
    assert all(0.0 <= row["block_influence"] <= 2.0 for row in values["layers"])
    assert "block_influence" in run("inspect", parent, "--sequences", "2", "--length", "16").output


def test_generate_goes_on_from_the_prompt(parent):
    done = run("generate", parent, "--prompt", "The sea", "--tokens", "5")
    assert done.exit_code == 0 and done.output.startswith("The sea") and len(done.output.strip()) > len("The sea")


def broken(parent, folder, change):
    folder.mkdir()
    for path in parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder)
    return folder


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def nan(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_family(folder):
    config = json.loads((folder / "config.json").read_text())
    other = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(config | other))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ratio", "1.2"], ["between 0 and 1", "1.2"]),
        (["--ratio", "0"], ["between 0 and 1"]),
        (["--ratio", "nan"], ["between 0 and 1", "nan"]),
        (["--ratio", "0.95", "--layers", "0"], ["0.95", "at most"]),
        (["--method", "wnada-sp"], ["wnada-sp", "did you mean 'wanda-sp'"]),
        (["--recovery", "mastk"], ["mastk", "did you mean 'mask'"]),
        (["--widths", "equal"], ["equal", "uniform"]),
        (["--of", "heads"], ["heads", "decoder"]),
        (["--layers", "many"], ["many", "auto"]),
        (["--preset", "papper"], ["papper", "did you mean 'paper'"]),
        (["--layers", "3"], ["3", "layers"]),
        (["--layers", "-1"], ["-1"]),
        (["--kv-groups", "5"], ["5", "KV groups"]),
        (["--multiple", "0"], ["multiple", "0"]),
        (["--ridge", "0"], ["ridge", "0"]),
        (["--sequences", "100000"], ["at most", "general", "100000"]),
        (["--sequences", "100000", "--calibration", "calibration"], ["tokens", "calibration"]),
        (["--length", "4096"], ["128", "4096"]),
        (["--calibration", "evaluation", "--evaluate", "evaluation"], ["evaluat", "same"]),
        (["--calibration", "no/such/file.txt"], ["no/such/file.txt"]),
        (["--dtype", "float31"], ["float31", "float32"]),
    ],
)
def test_bad_options_are_refused_in_one_line(parent, tmp_path, options, words):
    done = run("prune", parent, "--out", tmp_path / "out", *SMALL, *options)
    refused(done, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, ["model.safetensors"]),
        (nan, ["model.layers.1.mlp.up_proj.weight"]),
        (other_family, ["gpt2", "llama"]),
        (lambda folder: (folder / "config.json").unlink(), ["config.json"]),
    ],
    ids=["truncated", "nan", "architecture", "no-config"],
)
def test_bad_models_are_refused_in_one_line(parent, tmp_path, change, words):
    done = run("prune", broken(parent, tmp_path / "bad", change), "--out", tmp_path / "out", *SMALL)
    refused(done, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "  \n", "Too short."])
def test_empty_or_short_text_is_refused(parent, tmp_path, text):
    (tmp_path / "text.txt").write_text(text)
    refused(run("prune", parent, "--out", tmp_path / "out", *SMALL, "--calibration", tmp_path / "text.txt"), ["text"])
    refused(run("evaluate", parent, "--text", tmp_path / "text.txt", "--length", "64"), ["text"])
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_kept_unless_overwrite(parent, tmp_path):
    out = tmp_path / "out"
    assert run("prune", parent, "--out", out, *SMALL).exit_code == 0
    before = content(out)
    refused(run("prune", parent, "--out", out, *SMALL, "--ratio", "0.3"), ["--overwrite"])
    assert content(out) == before
    assert run("prune", parent, "--out", out, *SMALL, "--ratio", "0.3", "--overwrite").exit_code == 0
    after = content(out)
    assert after["comp_plan.json"] != before["comp_plan.json"]
    refused(run("prune", parent, "--out", parent, *SMALL, "--overwrite"), ["apart from"])


def test_no_disk_space_is_refused_before_work(parent, tmp_path, monkeypatch):
    import shutil

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: real._replace(free=1000))
    refused(run("prune", parent, "--out", tmp_path / "out", *SMALL), ["disk space"])


def test_a_text_that_is_too_short_is_named_before_a_disk_that_is_too_small_for_its_states(
    parent, tmp_path, monkeypatch
):
    import shutil

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: real._replace(free=10**8))
    many = ("--sequences", "100000", "--length", "128")  # whose states are more than 0.1 GB
    for text, words in {"calibration": "tokens of calibration text", "self": "disk space"}.items():
        refused(run("prune", parent, "--out", tmp_path / "out", *SMALL, *many, "--calibration", text), [words])


def test_the_module_runs_as_a_program(python, parent):
    out = subprocess.run(
        [*python, "-m", "comp_lib", "evaluate", parent, "--text", "nowhere.txt"], capture_output=True, text=True
    )
    assert out.returncode == 2 and "nowhere.txt" in out.stderr and out.stdout == ""


def test_widths_that_no_checkpoint_can_hold_are_refused_before_work(tmp_path, tokenizer):
    from variants import build

    build("mistral").save_pretrained(tmp_path / "mistral")
    tokenizer.save_pretrained(tmp_path / "mistral")
    done = run("prune", tmp_path / "mistral", "--out", tmp_path / "out", *SMALL, "--widths", "per-layer")
    refused(done, ["mistral", "uniform"])
    assert not (tmp_path / "out").exists()


def test_the_papers_preset_yields_to_options_that_are_given(parent, tmp_path):
    for name, more in {"plain": [], "uniform": ["--widths", "uniform", "--ridge", "0.5"]}.items():
        done = run("prune", parent, "--out", tmp_path / name, *SMALL, "--preset", "paper", "--layers", "0", *more)
        assert done.exit_code == 0, done.output
    plain, uniform = (Plan.load(tmp_path / name / "comp_plan.json") for name in ("plain", "uniform"))
    assert len(set(plain.neurons)) > 1 and len(set(uniform.neurons)) == 1
    cards = [(tmp_path / name / "README.md").read_text() for name in ("plain", "uniform")]
    assert all("| re-tuned by | mask |" in card for card in cards)


@pytest.mark.parametrize(("given", "size"), [([], "256 x 4"), (["--sequences", "8"], "8 x 4")])
def test_the_best_preset_takes_twice_the_text_unless_told_otherwise(parent, tmp_path, given, size):
    told = "--length 4 --multiple 4 --evaluate none --calibration calibration --preset best".split()
    done = run("prune", parent, "--out", tmp_path / "m", *told, *given)
    assert done.exit_code == 0, done.output
    assert f"{size} tokens" in (tmp_path / "m" / "README.md").read_text()
    assert f"{size[:-4]} sequences" in " ".join(done.output.split())


@pytest.mark.parametrize(("target", "width"), [("cpu", 32), ("gguf-q4", 32), ("gpu", 48)])
def test_a_target_picks_the_multiple(parent, tmp_path, target, width):
    done = run(
        "prune", parent, "--out", tmp_path / "m", *SMALL[:4], "--evaluate", "none", "--target", target, "--ratio", "0.1"
    )
    assert done.exit_code == 0, done.output
    assert set(Plan.load(tmp_path / "m" / "comp_plan.json").neurons) == {width}  # of 48; a tile is larger than that


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "gguf"], ("cpu, gguf-q4, gpu", "'gguf-q4'")),
        (["--target", "dense"], ("--aim",)),
        (["--target", "cpu", "--multiple", "8"], ("one decides the other",)),
    ],
)
def test_targets_that_are_refused(parent, tmp_path, options, words):
    done = run("prune", parent, "--out", tmp_path / "m", *options)
    assert done.exit_code == 2 and all(word in done.output for word in words)
    assert not (tmp_path / "m").exists()


# --- devices ----------------------------------------------------------------------------------------------------------

WITH_DEVICE = {
    "prune": ["--out", "nowhere", *SMALL],
    "inspect": ["--sequences", "2", "--length", "16"],
    "plan": ["--budget", "latency=0.7", "--trials", "0", *SMALL[:4]],
    "evaluate": ["--length", "64", "--sequences", "1"],
    "generate": ["--prompt", "The sea", "--tokens", "2"],
    "report": ["--out", "nowhere.html"],
    "heal": ["--parent", "nowhere", "--out", "nowhere"],
}


def test_these_are_the_commands_with_a_device():
    commands = {command.callback.__name__: command.callback for command in app.registered_commands}
    has_device = {name for name, command in commands.items() if "device" in inspect.signature(command).parameters}
    assert has_device == WITH_DEVICE.keys() < commands.keys()


@pytest.mark.parametrize("name", WITH_DEVICE)
def test_a_device_that_is_not_here_is_refused_before_any_work(parent, monkeypatch, name):
    def unwanted(*arguments, **options):
        raise AssertionError("this is work")

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("comp_lib.models.load.load_model", unwanted)
    monkeypatch.setattr("comp_lib.scale.model_on_disk.open_streamed", unwanted)
    refused(run(name, parent, *WITH_DEVICE[name], "--device", "cuda"), ["device", "cpu", "'cuda'"])


@pytest.mark.parametrize("name", ["prune", "plan", "report"])
def test_what_solves_refuses_a_device_without_float64(parent, monkeypatch, name):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    refused(run(name, parent, *WITH_DEVICE[name], "--device", "mps"), ["float64", "cpu", "'mps'"])


@pytest.mark.parametrize("name", ["inspect", "plan", "evaluate", "generate"])
def test_auto_is_a_device(parent, monkeypatch, name):
    cost = CostModel("decode", 0.0, 1.0, 0.0, 1 / 48)  # no clock: a layer as much as its neurons
    monkeypatch.setattr(latency, "measure", lambda model, **options: {"decode": cost})
    done = run(name, parent, *WITH_DEVICE[name], "--device", "auto")
    assert done.exit_code == 0, (done.output, done.exception)


# --- how a command is made --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    length: Annotated[int, Option(help="How long.")]
    width: Annotated[int, Option("--wide", help="How wide.")] = 3


def test_a_command_has_the_fields_of_its_options_as_parameters():
    seen = []

    @options.command
    def measure(context: Context, name: Annotated[str, Argument()], options: Sizes) -> None:
        """Says nothing."""
        seen.append(
            (name, options, {key for key in context.params if context.get_parameter_source(key).name != "DEFAULT"})
        )
        if options.width > 9:
            raise InputError("expected less")

    program = Typer()
    program.command()(measure)
    assert CliRunner().invoke(program, ["x", "--length", "2"]).exit_code == 0
    assert seen == [("x", Sizes(2, 3), {"name", "length"})]
    text = CliRunner().invoke(program, ["--help"], terminal_width=200).output
    assert all(words in text for words in ("Says nothing.", "How long.", "--wide", "How wide.", "[default: 3]"))
    done = CliRunner().invoke(program, ["x", "--length", "2", "--wide", "10"])
    assert done.exit_code == 2 and done.stderr.splitlines() == ["comp-lib: expected less"]
    assert CliRunner().invoke(program, ["x"]).exit_code == 2  # a field without a default is required


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_in_memory_reports_the_layer_importance(parent, tmp_path, monkeypatch):
    small = {"sequences": 4, "length": 32, "multiple": 4, "evaluate_on": "none"}
    streamed = PruneRun(str(parent), tmp_path / "n", PruneOptions(layers="1", **small))
    assert not streamed.whole and len(streamed.carry_out().report.layer_importance) == 3
    monkeypatch.setattr(pruning, "whole_model", lambda settings: "a test")
    run = PruneRun(str(parent), tmp_path / "m", PruneOptions(layers="1", **small))
    assert run.whole and len(run.carry_out().report.layer_importance) == 3


def test_text_is_written_first_and_only_where_it_fits(parent, tmp_path, monkeypatch, capsys, own_cache):
    small = {"sequences": 16, "length": 32, "multiple": 4, "evaluate_on": "none", "calibration": "general"}
    run = PruneRun(str(parent), tmp_path / "m", PruneOptions(**small))
    assert not run.whole and run.source == "general"
    run.carry_out()
    assert "text written by the model itself" in (tmp_path / "m" / "README.md").read_text()
    monkeypatch.setattr(pruning, "free_memory", lambda device: 1000)
    run = PruneRun(str(parent), tmp_path / "n", PruneOptions(**small))
    assert run.source == "shipped" and "writes no calibration text" in capsys.readouterr().err
    run.carry_out()
    card = (tmp_path / "n" / "README.md").read_text()
    assert "written by the model" not in card and "calibration:code" in card


def test_a_full_folder_is_refused_before_any_text_is_written(parent, tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    monkeypatch.setattr(pruning, "calibration_tokens", lambda *args, **kwargs: pytest.fail("text was drawn"))
    run = PruneRun(str(parent), tmp_path / "m", PruneOptions(sequences=4, length=32, calibration="self"))
    with pytest.raises(InputError, match="expected a new or an empty folder, got .*/m with files in it"):
        run.carry_out()


@pytest.fixture
def embedded(tmp_path, tiny_llama, tokenizer, monkeypatch):
    """A tiny model stands in for the embedded one; the list of what was loaded as a whole."""
    tiny_llama(max_position_embeddings=256).save_pretrained(tmp_path / "embedded")
    tokenizer.save_pretrained(tmp_path / "embedded")
    loaded = []

    def found(name):
        return tmp_path / "embedded" if name == load.EMBEDDED else name

    def load_model(name, *options):
        loaded.append(str(name))
        return whole(found(name), *options)

    whole, streamed = load.load_model, model_on_disk.open_streamed
    monkeypatch.setattr(load, "load_model", load_model)
    monkeypatch.setattr(model_on_disk, "open_streamed", lambda name, dtype: streamed(found(name), dtype))
    return loaded


def test_a_demo_refuses_a_full_folder_before_it_loads_or_measures(embedded, tmp_path):
    (tmp_path / "demo" / "model").mkdir(parents=True)
    (tmp_path / "demo" / "model" / "precious.txt").write_text("mine")
    refused(run("demo", "--out", tmp_path / "demo"), ["--overwrite"])
    assert embedded == [] and (tmp_path / "demo" / "model" / "precious.txt").read_text() == "mine"


def test_a_demo_shows_what_it_did(embedded, tmp_path):
    done = run("demo", "--out", tmp_path / "demo")
    assert done.exit_code == 0, (done.output, done.exception)
    for picture in ("pruned.png", "kinds.png"):
        assert (tmp_path / "demo" / picture).stat().st_size > 1000
    card = (tmp_path / "demo" / "model" / "README.md").read_text()
    assert "SmolLM2-135M-Instruct" in card and "apache-2.0" in card
    for words in (
        "of the decoder removed by comp",
        "pictures:",
        "perplexity, evaluation (3,060 tokens)",
        "dense",
        "pruned",
    ):
        assert words in done.output


@pytest.mark.parametrize(
    "template", [None, "<s>{{ messages[0]['content'] }}{% if add_generation_prompt %}>{% endif %}"]
)
def test_a_demo_judges_every_kind_and_lets_both_models_speak(embedded, tmp_path, tokenizer, monkeypatch, template):
    heard = []

    def continuation(model, tokenizer, prompt, tokens):
        heard.append((prompt, Shape.of(model).decoder))
        return f"\n    [i] of [/b] {len(heard)}\n"  # what rich would take for its own markup

    monkeypatch.setattr("comp_lib.evaluation.generation.continuation", continuation)
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = template
    chat.save_pretrained(tmp_path / "embedded")
    done = run("demo", "--out", tmp_path / "demo")
    assert done.exit_code == 0, (done.output, done.exception)
    small, dense = (load.load_model(tmp_path / name)[0] for name in ("demo/model", "embedded"))
    prompts = ["The water cycle begins when the sun", "def is_prime(n):"] + ["<s>Name three colours.>"] * bool(template)
    sizes = [Shape.of(model).decoder for model in (dense, small)]
    assert heard == [(prompt, size) for prompt in prompts for size in sizes] and sizes[1] < sizes[0]
    texts = done.stdout[done.stdout.index("The water cycle") :]
    for place in range(1, 7):
        assert (f"    [i] of [/b] {place}" in texts) == (place <= len(heard))
    assert ("Name three colours." in texts) == bool(template) and "<s>" not in texts
    code = compare(small, dense, evaluation_tokens(tokenizer, load_text("evaluation:code"), 64, 10))
    row = next(line for line in done.stdout.splitlines() if line.startswith("│ code "))
    assert f"│ {code.dense_loss:.3f} │ {code.loss:.3f}" in row and f" {code.increase:.3f} (" in row


@pytest.mark.parametrize("command", ["compare", "plan"])
def test_results_that_cannot_be_written_are_refused_in_one_line(parent, tmp_path, monkeypatch, command):
    monkeypatch.setattr("comp_lib.compare.grid.run", lambda *arguments: read_rows("nowhere"))
    cost = CostModel("decode", 0.0, 1.0, 0.0, 1 / 48)
    monkeypatch.setattr(latency, "measure", lambda model, **options: {"decode": cost})
    place = tmp_path / ("table.md" if command == "compare" else "plan.json")
    (place / "in the way").mkdir(parents=True)
    out = tmp_path if command == "compare" else place
    more = ["--methods", "comp"] if command == "compare" else WITH_DEVICE["plan"]
    refused(run(command, parent, "--out", out, *more), ["got the folder", str(place)])


@pytest.mark.parametrize("method", ["comp", "llm-pruner"])
def test_a_type_that_cannot_hold_the_weights_is_refused_before_any_work(method, parent, tmp_path):
    folder = shutil.copytree(parent, tmp_path / "parent")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = 7e4
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    asked = ("--save-dtype", "float16", "--length", 32, "--multiple", 8, "--method", method)
    done = run("prune", folder, "--out", tmp_path / "new", *asked)
    assert done.exit_code == 2 and "float16 can hold" in done.stderr and "up_proj" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


@pytest.mark.parametrize("name", ["x[/red]", "[bold]x", ":smile: [link=a]"])
def test_names_are_printed_as_they_are(parent, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text [").mkdir()
    text = tmp_path / "text [" / "red].txt"
    text.write_text(load_text("evaluation"))
    done = run("prune", parent, "--out", name, *SMALL[:-1], text)
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"saved: {name}\n" in done.stdout
    for more in (["inspect", "--sequences", "2", "--length", "16"], ["evaluate", "--text", text, "--length", "64"]):
        done = run(more[0], name, *more[1:])
        assert done.exit_code == 0, (done.output, done.exception)
    done = run("export", name, "--gguf", f"{name.replace('/', '')}.gguf")
    assert done.exit_code == 0 and f"written: {name.replace('/', '')}.gguf" in done.stdout


def test_a_linked_file_stays_a_link(parent, tmp_path):
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    words = ("--budget", "latency=0.8", "--multiple", "4", "--sequences", "4", "--length", "24", "--overwrite")
    done = run("plan", parent, *words, "--out", tmp_path / "link.json")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "link.json").is_symlink() and Plan.load(tmp_path / "real.json").parent_layers == 3


@pytest.mark.parametrize("method", ["flap", "llm-pruner"])
def test_widths_that_no_folder_can_hold_are_refused_before_the_work(method, tmp_path, tokenizer, monkeypatch):
    build("gemma3").save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")

    def never(*given, **told):
        raise AssertionError("worked")

    monkeypatch.setattr("comp_lib.cli.pruning.calibration_tokens", never)
    options = ("--ratio", "0.2", "--recovery", "none", *FEW)
    done = run("prune", tmp_path / "gemma", "--out", tmp_path / "out", "--method", method, *options)
    assert done.exit_code == 2 and "expected a llama model" in done.stderr.splitlines()[-1]


def test_a_plan_without_trials_needs_no_text_to_judge_on(parent):
    words = ("--budget", "latency=0.8", "--multiple", "4", "--sequences", "1", "--length", "24")
    done = run("plan", parent, *words, "--trials", "0")
    assert done.exit_code == 0, done.output
    refused(run("plan", parent, *words), ["at least 2 calibration sequences"])
