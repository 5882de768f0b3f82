"""Pruning from files to files: equal to pruning in memory, and to itself whatever happens on the way."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import content
from on_disk import SETTINGS, Killed, opened, saved
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from variants import LAYOUTS, WHOLE_ATTENTION, build, tokens

from comp_lib.checkpoints.card import Provenance
from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.from_disk import destination, from_disk, model_on_disk, sink, work_folder
from comp_lib.checkpoints.from_disk.destination import SaveOptions
from comp_lib.checkpoints.from_disk.from_disk import prune_to
from comp_lib.checkpoints.from_disk.model_on_disk import ModelOnDisk
from comp_lib.checkpoints.from_disk.run_state import CarriedFiles, RunState
from comp_lib.checkpoints.from_disk.work_folder import StatesFile
from comp_lib.checkpoints.load import load_model, open_model
from comp_lib.checkpoints.save import save_checkpoint
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.weight_names import EMBEDDING, HEAD
from comp_lib.evaluation.loss import measure_loss
from comp_lib.hybrid_granularity.measured import measure_harm
from comp_lib.importance.layers import block_influence, sequence_loss_increase
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.recovery.recoveries import RECOVERIES
from comp_lib.utils.errors import InputError

OWN_WIDTHS = Settings(ratio=0.2, multiple=4, widths="measured", aim="self")


@pytest.fixture(scope="module")
def undisturbed(parent, tokenizer, tmp_path_factory):
    """The folder that a run on `parent` writes where nothing disturbs it."""
    out = tmp_path_factory.mktemp("undisturbed") / "small"
    prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
    return out


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_give_what_memory_gives(name, tmp_path, tokenizer):
    parent, model = saved(tmp_path / "parent", name)
    ids = tokens()
    source = opened(parent)
    settings = replace(SETTINGS, kv_groups=None) if name in WHOLE_ATTENTION else SETTINGS
    in_memory = prune(model, ids, settings, model_name="parent")
    card = Provenance("parent", source.shape, "some tokens")
    save_checkpoint(tmp_path / "inside" / "small", in_memory.model, tokenizer, in_memory.plan, card)
    from_files = prune_to(
        tmp_path / "files" / "small",
        source,
        tokenizer,
        ids,
        settings,
        options=SaveOptions(name="parent", provenance=card),
    )
    assert from_files.plan == in_memory.plan
    assert from_files.shape == Shape.of(in_memory.model)
    for ours, theirs in zip(from_files.report.layers, in_memory.report.layers, strict=True):
        assert replace(ours, seconds=0) == replace(theirs, seconds=0)
    expected = tmp_path / "inside" / "small"
    actual = tmp_path / "files" / "small"
    metadata = [path.name for path in expected.iterdir() if path.suffix != ".safetensors"]
    assert {"config.json", "README.md", "comp_plan.json", "generation_config.json"} < set(metadata)
    assert all((actual / name).read_bytes() == (expected / name).read_bytes() for name in metadata)
    torch.testing.assert_close(
        load_file(actual / "model.safetensors"), load_file(expected / "model.safetensors")
    )
    assert not actual.with_name("small.partial").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"aim": "self", "kv_groups": None, "drop_layers": 0},
        {"recovery": "bias", "aim": "self", "drop_layers": 0},
        {"recovery": "mask", "aim": "self", "widths": "per-layer"},
        {"method": "flap", "recovery": "bias", "drop_layers": "auto", "kv_groups": None, "aim": "self"},
        {"method": "random", "recovery": "none", "aim": "self", "seed": 3},
    ],
)
def test_other_settings_give_the_same_too(changes, parent, tmp_path, tokenizer):
    settings = replace(SETTINGS, **changes)
    ids = tokens()
    in_memory = prune(build(), ids, settings)
    from_files = prune_to(tmp_path / "small", opened(parent), tokenizer, ids, settings)
    assert from_files.plan == in_memory.plan
    tensors = {}
    for path in (tmp_path / "small").glob("*.safetensors"):
        tensors |= load_file(path)
    for name, value in in_memory.model.state_dict().items():
        torch.testing.assert_close(tensors[name], value)


def test_the_model_on_disk_answers_as_the_loaded_one(tmp_path):
    parent, model = saved(tmp_path / "parent", "tied")
    source = opened(parent)
    ids = tokens()
    assert Shape.of(source) == Shape.of(model)
    torch.testing.assert_close(block_influence(source, ids), block_influence(model, ids))
    torch.testing.assert_close(sequence_loss_increase(source, ids), sequence_loss_increase(model, ids))


@pytest.mark.parametrize("widths", ["estimated", "measured"])
@pytest.mark.parametrize("name", ["gqa", "all-at-once"])
def test_own_widths_from_files_are_those_of_memory(name, widths, tmp_path, tokenizer):
    """The plans are equal, and the weights to the bit."""
    settings = replace(OWN_WIDTHS, widths=widths)
    parent, model = saved(tmp_path / "parent", name)
    in_memory = prune(model, tokens(8), settings)
    calls = []

    def observe(stage, count, total, report=None):
        calls.append((stage, count, total))

    from_files = prune_to(
        tmp_path / "small", opened(parent), tokenizer, tokens(8), settings, progress=observe
    )
    assert from_files.plan == replace(in_memory.plan, parent="")
    assert len(set(from_files.plan.neurons)) > 1
    assert calls[:3] == [("harm of layers", count, 3) for count in (1, 2, 3)]
    assert calls[3][0] == "comparing predictions"
    small = load_file(tmp_path / "small" / "model.safetensors")
    expected = in_memory.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in small.items())
    assert small.keys() | {"lm_head.weight"} == expected.keys()


@pytest.mark.parametrize("name", ["gqa", "tied"])
def test_measured_harm_reads_each_layer_once(name, tmp_path, monkeypatch):
    parent, model = saved(tmp_path / "parent", name)
    source = opened(parent)
    names_read = []
    read_tensor = source.files.read

    def watched_read(name, dtype, rows=None):
        names_read.append(name)
        return read_tensor(name, dtype, rows)

    monkeypatch.setattr(source.files, "read", watched_read)
    measured = measure_harm(source, tokens(8), 12)
    of_layers = [name for name in names_read if ".layers." in name]
    assert len(of_layers) == len(set(of_layers)) == 27
    assert names_read[-1] == (EMBEDDING if name == "tied" else HEAD)
    assert torch.equal(measured.harm, measure_harm(model, tokens(8), 12).harm)


@pytest.fixture
def weights_in_memory(monkeypatch):
    """Lists of weak references: to the weights of the last "layer", and to each "head" that answered.

    Where a layer after the first is asked for, all of them must be gone from memory.
    """
    references = {"layer": [], "head": []}
    layer_of = ModelOnDisk.layer
    apply_head = model_on_disk.head

    def watched_layer(source, index, device):
        if index > 0:
            assert all(weight() is None for weight in references["layer"])
            assert all(weight() is None for weight in references["head"])
        layer = layer_of(source, index, device)
        references["layer"] = [weakref.ref(weight) for weight in layer.parameters()]
        return layer

    def watched_head(meta_model, states, linear):
        references["head"].append(weakref.ref(linear.weight))
        return apply_head(meta_model, states, linear)

    monkeypatch.setattr(ModelOnDisk, "layer", watched_layer)
    monkeypatch.setattr(model_on_disk, "head", watched_head)
    return references


@pytest.mark.parametrize("name", ["gqa", "tied"])
def test_each_layer_is_let_go_before_the_next(name, tmp_path, tokenizer, weights_in_memory):
    """`weights_in_memory` asserts it, where harm is measured and in a run."""
    parent, _ = saved(tmp_path / "parent", name)
    source = opened(parent)
    measure_harm(source, tokens(8), 12)
    assert weights_in_memory["layer"]
    prune_to(tmp_path / "small", source, tokenizer, tokens(), SETTINGS)


@pytest.mark.parametrize("name", ["gqa", "tied"])
def test_the_head_is_kept_from_the_first_answer_until_a_layer_is_asked_for(name, tmp_path, weights_in_memory):
    parent, _ = saved(tmp_path / "parent", name)
    source = opened(parent)
    measure_harm(source, tokens(8), 12)
    assert weights_in_memory["head"][-1]() is not None
    source.layer(0, "cpu")
    assert weights_in_memory["head"][-1]() is None


def test_perplexities_are_those_of_the_two_models(tmp_path, tokenizer):
    parent, model = saved(tmp_path / "parent")
    windows = tokens(3, 20, seed=5)
    options = SaveOptions(windows=windows, dtype=torch.bfloat16)
    result = prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS, options=options)
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    before = measure_loss(model, windows)
    after = measure_loss(small.eval(), windows)
    old_losses, new_losses = torch.tensor(result.losses).T.tolist()
    assert old_losses == pytest.approx(before.losses, rel=1e-5)
    assert new_losses == pytest.approx(after.losses, rel=1e-5)
    card = (tmp_path / "small" / "README.md").read_text()
    assert f"| {before.perplexity:.2f} | {after.perplexity:.2f} |" in card


class Points:
    """The moments of a run at which it may be killed: a file is written, renamed, deleted or flushed."""

    def __init__(self, monkeypatch):
        self.names = []  # of the functions that were called, one for each moment
        self.last = None  # the number of the moment at which the run is killed, counted from 1
        for module, name in (
            (os, "replace"),
            (os, "fsync"),
            (Path, "unlink"),
            (Path, "write_text"),
            (StatesFile, "__setitem__"),
            (sink, "write_rows"),
            (from_disk, "save_metadata"),
        ):
            self.guard(monkeypatch, module, name)

    def guard(self, monkeypatch, module, name):
        real = getattr(module, name)

        def guarded(*args, **options):
            self.names.append(name)
            if len(self.names) == self.last:
                if name == "write_rows":  # half a tensor
                    real(args[0], args[1][: len(args[1]) // 2], *args[2:])
                raise Killed
            return real(*args, **options)

        monkeypatch.setattr(module, name, guarded)


def moments_to_kill_at(names):
    """Numbers of the middle moment of each function, and of the last four moments.

    `names` holds the name of the function of each moment.
    """
    moments = {}  # name of a function -> the numbers of its moments
    for number, name in enumerate(names, 1):
        moments.setdefault(name, []).append(number)
    assert len(names) > 60
    assert len(moments) == 7
    middle_of_each = {numbers[len(numbers) // 2] for numbers in moments.values()}
    return middle_of_each | {*range(len(names) - 3, len(names) + 1)}


@pytest.fixture
def names_of_states(monkeypatch):
    """The names of the files of states that were created."""
    names = set()
    create = StatesFile.create

    def recorded_create(*arguments, **options):
        states = create(*arguments, **options)
        names.add(states.path.name)
        return states

    monkeypatch.setattr(StatesFile, "create", recorded_create)
    return names


@pytest.mark.slow
def test_killed_in_each_function_or_near_the_end_it_ends_with_the_same_bytes(
    parent, tmp_path, tokenizer, monkeypatch, names_of_states
):
    windows = tokens(2, 16, seed=5)
    points = Points(monkeypatch)

    def run(out):
        options = SaveOptions(windows=windows, name="parent", dtype=torch.bfloat16)
        return prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS, options=options)

    run(tmp_path / "undisturbed" / "small")
    expected = content(tmp_path / "undisturbed" / "small")
    names = points.names
    for last in moments_to_kill_at(names):
        out = tmp_path / f"kill-{last}" / "small"
        points.names = []
        points.last = last
        with pytest.raises(Killed):
            run(out)
        points.last = None
        run(out)
        assert content(out) == expected, f"killed at moment {last} of {len(names)}, {names[last - 1]}"
        assert [path.name for path in out.parent.iterdir()] == ["small"]
    assert names_of_states == {f"states-{number}" for number in range(destination.STATES_FILES)}


@pytest.mark.parametrize("name", ["write_rows", "fsync"])
def test_a_full_disk_is_reported_and_the_same_call_goes_on(
    name, parent, undisturbed, tmp_path, tokenizer, monkeypatch
):
    real = getattr(sink, name)
    calls = itertools.count()

    def quota(*arguments):
        if next(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sink, name, quota)
        with pytest.raises(InputError, match="No space left.*the same command goes on"):
            prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert not (tmp_path / "small").exists()
    prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert content(tmp_path / "small") == content(undisturbed)


def test_a_parent_that_cannot_be_read_is_no_fault_of_the_folder(parent, tmp_path, tokenizer, monkeypatch):
    unreadable = str(Path(parent) / "model.safetensors")

    def forbidden(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", unreadable)

    model = opened(parent)
    monkeypatch.setattr(model, "layer", forbidden)
    with pytest.raises(PermissionError, match="model.safetensors"):
        prune_to(tmp_path / "small", model, tokenizer, tokens(), SETTINGS)


def test_an_error_of_whoever_shows_the_progress_is_no_fault_of_the_folder(parent, tmp_path, tokenizer):
    def closed(*arguments):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS, progress=closed)


def test_runs_that_are_cut_off_leave_no_more_states_than_one(parent, tmp_path, tokenizer, monkeypatch):
    def killed(*arguments):
        raise Killed

    counts = set()
    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(sink, "write_rows", killed)
            prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
        counts.add(len(list((tmp_path / "small.partial").glob("states-*"))))
    assert len(counts) == 1


def test_the_model_that_is_read_is_not_overwritten(undisturbed, tokenizer):
    before = content(undisturbed)
    settings = replace(SETTINGS, drop_layers=0)
    with pytest.raises(InputError, match="apart from the models that are read"):
        prune_to(
            undisturbed,
            opened(undisturbed),
            tokenizer,
            tokens(),
            settings,
            options=SaveOptions(overwrite=True),
        )
    assert content(undisturbed) == before


def test_a_large_model_is_numbered_files_and_an_index(parent, undisturbed, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(work_folder, "LARGEST_FILE_BYTES", 30_000)
    prune_to(tmp_path / "several", opened(parent), tokenizer, tokens(), SETTINGS)
    single = AutoModelForCausalLM.from_pretrained(undisturbed)
    several = AutoModelForCausalLM.from_pretrained(tmp_path / "several")
    assert len(list((tmp_path / "several").glob("model-0000*.safetensors"))) > 1
    assert not (tmp_path / "several" / "model.safetensors").exists()
    for key, value in single.state_dict().items():
        assert torch.equal(several.state_dict()[key], value)


def test_files_of_somebody_else_are_not_touched(parent, tmp_path, tokenizer):
    """Neither a folder with the name that a run works in nor folders with names that look like ours."""
    letters = []
    for name in (".small.old-20251101", ".small.partial-123", "small.old-1", "small.partial-1"):
        (tmp_path / name).mkdir()
        letters.append(tmp_path / name / "letter.txt")
        letters[-1].write_text("dear")
    for name, file in (("other.partial", "letter.txt"), ("third", "progress.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("dear")
    letters.append(tmp_path / "other.partial" / "letter.txt")
    for name, message in (("other", "other files"), ("third", "a new or an empty folder")):
        with pytest.raises(InputError, match=message):
            prune_to(tmp_path / name, opened(parent), tokenizer, tokens(), SETTINGS)
    prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert all(letter.read_text() == "dear" for letter in letters)


def test_killed_twice_in_a_row_goes_on_from_the_last_finished_layer(parent, tmp_path, tokenizer):
    settings = replace(SETTINGS, drop_layers=0)
    finished = []

    def run(out, stop=None):
        def observe(stage, count, total, report=None):
            if report is not None:
                finished.append(report.layer)
                if report.layer == stop:
                    raise Killed

        return prune_to(out, opened(parent), tokenizer, tokens(), settings, progress=observe)

    for stop in (0, 1):
        with pytest.raises(Killed):
            run(tmp_path / "small", stop)
    result = run(tmp_path / "small")
    assert finished == [0, 1, 2]  # no layer twice
    assert [report.layer for report in result.report.layers] == [0, 1, 2]
    undisturbed_result = run(tmp_path / "undisturbed" / "small")
    assert content(tmp_path / "small") == content(tmp_path / "undisturbed" / "small")
    for stopped, expected in zip(result.report.layers, undisturbed_result.report.layers, strict=True):
        assert replace(stopped, seconds=0) == replace(expected, seconds=0)


def test_widths_are_measured_anew_only_if_there_is_no_plan_yet(parent, tmp_path, tokenizer, monkeypatch):
    measurements = []
    stop = None

    def counted(*arguments, **options):
        measurements.append(arguments)
        return measure_harm(*arguments, **options)

    def observe(stage, count, total, report=None):
        if (stage, count) == stop:
            raise Killed

    def run(out, **options):
        return prune_to(out, opened(parent), tokenizer, tokens(8), OWN_WIDTHS, **options)

    monkeypatch.setattr("comp_lib.pruning.planners.comp.measure_harm", counted)
    plan = run(tmp_path / "undisturbed" / "small").plan
    for stop, expected in ((("comparing predictions", 64), 2), (("pruning", 1), 1)):
        out = tmp_path / stop[0] / "small"
        measurements.clear()
        with pytest.raises(Killed):
            run(out, progress=observe)
        assert run(out).plan == plan
        assert len(measurements) == expected
        assert content(out) == content(tmp_path / "undisturbed" / "small")


SCRIPT = """
import sys, time
sys.path[:0] = sys.argv[3:]
from on_disk import SETTINGS, opened
from variants import tokens
from comp_lib.checkpoints.from_disk.from_disk import prune_to
from transformers import AutoTokenizer
parent, out = sys.argv[1:3]

def observe(stage, count, total, report=None):
    if report is not None:
        print(report.layer, flush=True)
        time.sleep(60)

prune_to(out, opened(parent), AutoTokenizer.from_pretrained(parent), tokens(), SETTINGS, progress=observe)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_running_process_keeps_others_out_and_kill_9_lets_them_in(
    python, parent, undisturbed, tmp_path, tokenizer
):
    out = tmp_path / "small"
    command = [
        *python,
        "-c",
        SCRIPT,
        str(parent),
        str(out),
        *map(str, (Path(__file__).parent, Path(__file__).parents[2])),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()  # a layer is finished, and the process sleeps
        with pytest.raises(InputError, match="no other process that prunes"):
            prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
        process.send_signal(signal.SIGKILL)
        process.stdout.read()  # ends with the process
    prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
    assert content(out) == content(undisturbed)


def killed_after_a_layer(stage, count, total, report=None):
    """A `Progress` that ends the run once it has finished a layer."""
    if report is not None:
        raise Killed


def test_a_setting_that_a_card_does_not_name_is_part_of_the_request(parent, tmp_path, tokenizer):
    """Whether FLAP's budget counts dropped layers changes its plan: the run must not go on with another."""
    settings = Settings(ratio=0.3, method="flap", recovery="none", drop_layers="auto")
    source = opened(parent)
    with pytest.raises(Killed):
        prune_to(tmp_path / "small", source, tokenizer, tokens(), settings, progress=killed_after_a_layer)
    with pytest.raises(InputError, match="different: settings"):
        prune_to(tmp_path / "small", source, tokenizer, tokens(), replace(settings, drop_layers=0))


def test_another_request_is_refused_by_what_differs(parent, tmp_path, tokenizer):
    out = tmp_path / "small"
    with pytest.raises(Killed):
        prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS, progress=killed_after_a_layer)
    with pytest.raises(InputError, match="different: settings"):
        prune_to(out, opened(parent), tokenizer, tokens(), replace(SETTINGS, ratio=0.4))
    with pytest.raises(InputError, match="different: calibration"):
        prune_to(out, opened(parent), tokenizer, tokens(seed=1), SETTINGS)
    with pytest.raises(InputError, match="different: dtype"):
        prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS, options=SaveOptions(dtype=torch.float16))
    another_parent, _ = saved(tmp_path / "other", "tied")
    with pytest.raises(InputError, match="different: model"):
        prune_to(out, opened(another_parent), tokenizer, tokens(), SETTINGS)


def test_another_version_of_the_method_does_not_go_on_and_another_name_of_the_model_does(
    parent, undisturbed, tmp_path, tokenizer, monkeypatch
):
    out = tmp_path / "small"
    with pytest.raises(Killed):
        prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS, progress=killed_after_a_layer)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="different: method"):
        patch.setattr(from_disk, "METHOD_VERSION", 0)
        prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
    layers = []
    prune_to(
        out,
        opened(parent),
        tokenizer,
        tokens(),
        SETTINGS,
        options=SaveOptions(name="another/path"),
        progress=lambda label, finished, total, report=None: report and layers.append(report.layer),
    )
    assert layers == [2]  # layer 1 is dropped, and layer 0 was there
    before, after = (load_file(folder / "model.safetensors") for folder in (undisturbed, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "journal",
    [
        {"request": {"comp_lib": "0.1"}, "plan": None, "layers": [], "made": None, "states": {}},  # once
        {"identity": {}, "plan": None},
        json.loads(RunState({"comp_lib": "0.1"}).to_json()) | {"identity": {}},  # edited by hand
        {},
        [],
    ],
)
def test_the_progress_of_another_version_is_refused_in_one_line(parent, tmp_path, tokenizer, journal):
    work = tmp_path / "small.partial"
    work.mkdir()
    (work / "progress.json").write_text(json.dumps(journal), "utf-8")
    with pytest.raises(
        InputError, match="the progress of a run of this version.*delete that folder"
    ) as error:
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert "\n" not in str(error.value)
    assert json.loads((work / "progress.json").read_text("utf-8")) == journal


def test_the_states_that_are_still_needed():
    streams = CarriedFiles("states-0", "states-3", True, {"mlp": 2}, (1, 255))
    state = RunState({"name": "a"}, streams=streams)
    assert state.states_files == {"states-0", "states-3"}
    assert replace(state, streams=replace(streams, dense_stream=None)).states_files == {"states-0"}
    assert replace(state, streams=None).states_files == set()


def test_what_cannot_be_done_is_refused_before_any_work(tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    llm_pruner = Settings(method="llm-pruner", recovery="none")
    with pytest.raises(InputError, match="needs the whole model"):
        prune_to(tmp_path / "a", opened(parent), tokenizer, tokens(), llm_pruner)
    onto_itself = SaveOptions(name=str(parent), overwrite=True)
    with pytest.raises(InputError, match="a pruned model to overwrite"):
        prune_to(parent, opened(parent), tokenizer, tokens(), SETTINGS, options=onto_itself)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="a new or an empty folder"):
        prune_to(tmp_path / "full", opened(parent), tokenizer, tokens(), SETTINGS)
    with pytest.raises(InputError, match="whole layers can reach"):
        prune_to(tmp_path / "a", opened(parent), tokenizer, tokens(), Settings(ratio=0.9, method="shortgpt"))
    assert {path.name for path in tmp_path.iterdir()} == {"parent", "full"}


def test_not_a_number_is_refused_by_name(tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    tensors = load_file(parent / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, parent / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj"):
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)


def test_a_refit_too_large_for_the_dtype_of_the_files_is_refused_by_name(
    parent, tmp_path, tokenizer, monkeypatch
):
    refit = RECOVERIES["least-squares"]

    def refit_with_an_overflow(problem, selection):
        solved = refit(problem, selection)
        return replace(solved, weight=solved.weight.clamp(min=70_000.0))  # float16 ends at 65,504

    monkeypatch.setitem(RECOVERIES, "least-squares", refit_with_an_overflow)
    options = SaveOptions(dtype=torch.float16)
    settings = replace(SETTINGS, kv_groups=None, aim="self", drop_layers=0)
    message = r"that float16, the dtype of the files.*infinity in model\.layers\.0\.mlp\.down_proj\.weight"
    with pytest.raises(InputError, match=message) as error:
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), settings, options=options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_are_a_tensor_on_disk(dtype, tmp_path):
    values = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    states = StatesFile.create(tmp_path, values.shape, dtype)
    states[0:2] = values[:2]
    states[2:5] = values[2:]
    assert torch.equal(states[0:5], values)
    assert torch.equal(states[1:3], values[1:3])
    other_states = StatesFile.create(tmp_path, values.shape, dtype)
    assert other_states.path != states.path
    assert not other_states[0:5].any()


@pytest.mark.parametrize("name, kind", [("tied", "q8_0"), ("qwen2", "f16")])
def test_a_gguf_file_is_read_as_it_is(name, kind, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    parent, _ = saved(tmp_path / "parent", name, intermediate_size=64)  # blocks of q8_0
    tokenizer.save_pretrained(parent)
    file = export_gguf(parent, tmp_path / "model.gguf", kind)
    source = ModelOnDisk(*open_model(file, "float32")[:2])
    assert not (tmp_path / "cache").exists()  # nothing was converted
    from_files = prune_to(tmp_path / "small", source, tokenizer, tokens(), SETTINGS)
    loaded, _ = load_model(file)
    for index, layer in enumerate(loaded.model.layers):
        expected = layer.state_dict()
        for key, value in source.layer(index, "cpu").state_dict().items():
            assert torch.equal(expected[key], value)
    in_memory = prune(loaded, tokens(), SETTINGS)
    assert from_files.plan.kept_neurons == in_memory.plan.kept_neurons
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    for key, value in in_memory.model.state_dict().items():
        torch.testing.assert_close(small.state_dict()[key], value)


@pytest.mark.usefixtures("own_cache")
def test_files_beside_a_gguf_file_do_not_belong_to_it(tmp_path, tokenizer):
    folder, _ = saved(tmp_path / "parent")
    tokenizer.save_pretrained(folder)
    file = export_gguf(folder, tmp_path / "m.gguf", "f16")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7, "pad_token_id": 7}')
    model = ModelOnDisk(*open_model(str(file), "float32")[:2])
    prune_to(tmp_path / "small", model, tokenizer, tokens(), SETTINGS)
    assert ": 7" not in (tmp_path / "small" / "generation_config.json").read_text()
