"""Pruning from files to files: equal to pruning in memory, and to itself whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import signal
import subprocess
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from variants import LAYOUTS, WHOLE_ATTENTION, build, tokens

from comp_lib.comp import prune
from comp_lib.disk import from_disk, layout
from comp_lib.disk.from_disk import Saving, prune_to
from comp_lib.disk.model_on_disk import OnDisk
from comp_lib.disk.states import StatesFile
from comp_lib.errors import InputError
from comp_lib.evaluation.loss import perplexity
from comp_lib.importance.layers import block_influence, sequence_loss_increase
from comp_lib.importance.widths import sensitivity
from comp_lib.models.export import export_gguf
from comp_lib.models.load import load_model, open_model
from comp_lib.models.meta_model import make_meta_model
from comp_lib.models.save import Provenance, save_checkpoint
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.system.tensors import EMBEDDING, HEAD, TensorFiles

SETTINGS = Settings(ratio=0.3, layers=1, multiple=4, kv_groups=1, aim="dense")
MEASURED = Settings(ratio=0.2, multiple=4, widths="measured")


class Killed(BaseException):
    """What no code on the way may catch, as none can catch kill -9."""


def opened(folder, dtype=torch.float32):
    return OnDisk(make_meta_model(AutoConfig.from_pretrained(folder), dtype), TensorFiles(folder))


def saved(folder, name="gqa", **overrides):
    """(folder with the variant, the model as it loads from there)."""
    model = build(name, **overrides)
    model.save_pretrained(folder)
    return folder, type(model).from_pretrained(folder, attn_implementation="sdpa").eval()


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def calm(parent, tokenizer, tmp_path_factory):
    """What a run that nothing disturbs leaves of `parent`."""
    out = tmp_path_factory.mktemp("calm") / "small"
    prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
    return out


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_give_what_memory_gives(name, tmp_path, tokenizer):
    parent, model = saved(tmp_path / "parent", name)
    ids, source = tokens(), opened(parent)
    settings = replace(SETTINGS, kv_groups=None) if name in WHOLE_ATTENTION else SETTINGS
    inside = prune(model, ids, settings, name="parent")
    card = Provenance("parent", source.shape, "some tokens")
    save_checkpoint(tmp_path / "inside" / "small", inside.model, tokenizer, inside.plan, card)
    written = prune_to(
        tmp_path / "files" / "small",
        source,
        tokenizer,
        ids,
        settings,
        saving=Saving(name="parent", card=card),
    )
    assert written.plan == inside.plan
    assert written.after == Shape.of(inside.model)
    for ours, theirs in zip(written.report.layers, inside.report.layers, strict=True):
        assert replace(ours, seconds=0) == replace(theirs, seconds=0)
    one, other = tmp_path / "inside" / "small", tmp_path / "files" / "small"
    metadata = [path.name for path in one.iterdir() if path.suffix != ".safetensors"]
    assert {"config.json", "README.md", "comp_plan.json", "generation_config.json"} < set(metadata)
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in metadata)
    torch.testing.assert_close(*(load_file(folder / "model.safetensors") for folder in (other, one)))
    assert not other.with_name("small.partial").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"aim": "self", "kv_groups": None, "layers": 0},
        {"recovery": "bias", "aim": "self", "layers": 0},
        {"recovery": "mask", "aim": "self", "widths": "per-layer"},
        {"method": "flap", "recovery": "bias", "layers": "auto", "kv_groups": None, "aim": "self"},
        {"method": "random", "recovery": "none", "aim": "self", "seed": 3},
    ],
)
def test_other_settings_give_the_same_too(changes, parent, tmp_path, tokenizer):
    settings, ids = replace(SETTINGS, **changes), tokens()
    inside = prune(build(), ids, settings)
    written = prune_to(tmp_path / "small", opened(parent), tokenizer, ids, settings)
    assert written.plan == inside.plan
    tensors = {
        name: t for file in (tmp_path / "small").glob("*.safetensors") for name, t in load_file(file).items()
    }
    for name, value in inside.model.state_dict().items():
        torch.testing.assert_close(tensors[name], value)


def test_the_streamed_model_answers_as_the_loaded_one(tmp_path):
    parent, model = saved(tmp_path / "parent", "tied")
    source, ids = opened(parent), tokens()
    assert Shape.of(source) == Shape.of(model)
    torch.testing.assert_close(block_influence(source, ids), block_influence(model, ids))
    torch.testing.assert_close(sequence_loss_increase(source, ids), sequence_loss_increase(model, ids))


@pytest.mark.parametrize("name", ["gqa", "all-at-once"])
def test_measured_widths_from_files_are_those_of_memory(name, tmp_path, tokenizer):
    """The plan, and every number of the result to the bit."""
    parent, model = saved(tmp_path / "parent", name)
    inside, told = prune(model, tokens(8), MEASURED), []

    def observe(what, done, total, report=None):
        told.append((what, done, total))

    written = prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(8), MEASURED, progress=observe)
    assert written.plan == inside.plan and len(set(written.plan.neurons)) > 1
    assert told[:4] == [*(("sensitivity", done, 3) for done in (1, 2, 3)), ("comparing answers", 64, 96)]
    small, expected = load_file(tmp_path / "small" / "model.safetensors"), inside.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in small.items())
    assert small.keys() | {"lm_head.weight"} == expected.keys()


@pytest.mark.parametrize("name", ["gqa", "tied"])
def test_each_layer_is_let_go_before_the_next_and_sensitivity_reads_it_once(
    name, tmp_path, tokenizer, monkeypatch
):
    parent, model = saved(tmp_path / "parent", name)
    source, alive, read = opened(parent), [], []
    layer_of, tensor_of = OnDisk.layer, source.files.read

    def get(self, index, device):
        assert not any(weight() is not None for weight in alive) and self._head is None or index == 0
        layer = layer_of(self, index, device)
        alive[:] = [weakref.ref(weight) for weight in layer.parameters()]
        return layer

    def tensor(name, dtype, rows=None):
        read.append(name)
        return tensor_of(name, dtype, rows)

    monkeypatch.setattr(OnDisk, "layer", get)
    monkeypatch.setattr(source.files, "read", tensor)
    found = sensitivity(source, tokens(8), 12)
    assert len(of_layers := [name for name in read if ".layers." in name]) == len(set(of_layers)) == 27
    assert read[-1] == (EMBEDDING if name == "tied" else HEAD)
    assert torch.equal(found.harm, sensitivity(model, tokens(8), 12).harm)
    assert source._head is not None  # kept from the first answer
    assert source.layer(0, "cpu") is not None and source._head is None  # until a layer is asked for
    prune_to(tmp_path / "small", source, tokenizer, tokens(), SETTINGS)


def test_perplexities_are_those_of_the_two_models(tmp_path, tokenizer):
    parent, model = saved(tmp_path / "parent")
    windows = tokens(3, 20, seed=5)
    saving = Saving(windows=windows, dtype=torch.bfloat16)
    done = prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS, saving=saving)
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    before, after = (perplexity(one, windows) for one in (model, small.eval()))
    assert torch.tensor(done.losses).T.tolist() == [
        pytest.approx(one.losses, rel=1e-5) for one in (before, after)
    ]
    card = (tmp_path / "small" / "README.md").read_text()
    assert f"| {before.perplexity:.2f} | {after.perplexity:.2f} |" in card


class Points:
    """Places in a run that can be the last one: every file that is written, renamed, deleted or flushed."""

    def __init__(self, monkeypatch):
        self.seen, self.last = [], None
        for module, name in (
            (os, "replace"),
            (os, "fsync"),
            (Path, "unlink"),
            (Path, "write_text"),
            (StatesFile, "__setitem__"),
            (from_disk, "write_rows"),
            (from_disk, "save_metadata"),
        ):
            self.guard(monkeypatch, module, name)

    def guard(self, monkeypatch, module, name):
        real = getattr(module, name)

        def guarded(*args, **options):
            self.seen.append(name)
            if len(self.seen) == self.last:
                if name == "write_rows":  # half a tensor
                    real(args[0], args[1][: len(args[1]) // 2], *args[2:])
                raise Killed
            return real(*args, **options)

        monkeypatch.setattr(module, name, guarded)


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bytes(parent, tmp_path, tokenizer, monkeypatch):
    windows, points, made, create = tokens(2, 16, seed=5), Points(monkeypatch), [], StatesFile.create
    monkeypatch.setattr(StatesFile, "create", lambda *a, **b: made.append(create(*a, **b)) or made[-1])

    def run(out):
        saving = Saving(windows=windows, name="parent", dtype=torch.bfloat16)
        return prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS, saving=saving)

    run(tmp_path / "calm" / "small")
    expected, seen = content(tmp_path / "calm" / "small"), points.seen
    places = {name: [place for place, other in enumerate(seen, 1) if other == name] for name in seen}
    assert len(seen) > 60 and len(places) == 7
    for last in {*(each[len(each) // 2] for each in places.values()), *range(len(seen) - 3, len(seen) + 1)}:
        out = tmp_path / f"kill-{last}" / "small"
        points.seen, points.last = [], last
        with pytest.raises(Killed):
            run(out)
        points.last = None
        run(out)
        assert content(out) == expected, f"killed at point {last} of {len(seen)}, {seen[last - 1]}"
        assert [path.name for path in out.parent.iterdir()] == ["small"]
    assert {states.path.name for states in made} == {f"states-{number}" for number in range(from_disk.STATES_FILES)}


@pytest.mark.parametrize("name", ["write_rows", "fsync"])
def test_a_full_disk_is_said_and_the_same_call_goes_on(name, parent, calm, tmp_path, tokenizer, monkeypatch):
    real, calls = getattr(from_disk, name), itertools.count()

    def quota(*arguments):
        if next(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(from_disk, name, quota)
        with pytest.raises(InputError, match="No space left.*the same command goes on"):
            prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert not (tmp_path / "small").exists()
    prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert content(tmp_path / "small") == content(calm)


def test_runs_that_are_cut_off_leave_no_more_states_than_one(parent, tmp_path, tokenizer, monkeypatch):
    found = set()
    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(from_disk, "write_rows", lambda *_: (_ for _ in ()).throw(Killed()))
            prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
        found.add(len(list((tmp_path / "small.partial").glob("states-*"))))
    assert len(found) == 1


def test_the_model_that_is_read_is_not_overwritten(calm, tokenizer):
    before, again = content(calm), replace(SETTINGS, layers=0)
    with pytest.raises(InputError, match="apart from the models that are read"):
        prune_to(calm, opened(calm), tokenizer, tokens(), again, saving=Saving(overwrite=True))
    assert content(calm) == before


def test_a_large_model_is_numbered_files_and_an_index(parent, calm, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(layout, "LARGEST_FILE_BYTES", 30_000)
    prune_to(tmp_path / "several", opened(parent), tokenizer, tokens(), SETTINGS)
    one, several = (AutoModelForCausalLM.from_pretrained(folder) for folder in (calm, tmp_path / "several"))
    assert len(list((tmp_path / "several").glob("model-0000*.safetensors"))) > 1
    assert not (tmp_path / "several" / "model.safetensors").exists()
    for key, value in one.state_dict().items():
        assert torch.equal(several.state_dict()[key], value)


def test_what_is_somebodys_is_not_touched(parent, tmp_path, tokenizer):
    """A folder of the name in which a run would work, and files beside it that only look like ours."""
    names = ".small.old-20251101", ".small.partial-123", "small.old-1", "small.partial-1"
    for path in (theirs := [tmp_path / name for name in names]):
        path.mkdir()
        (path / "letter.txt").write_text("dear")
    for name, file in (("other.partial", "letter.txt"), ("third", "progress.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("dear")
    for name, words in (("other", "other files"), ("third", "a new or an empty folder")):
        with pytest.raises(InputError, match=words):
            prune_to(tmp_path / name, opened(parent), tokenizer, tokens(), SETTINGS)
    prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert all((path / "letter.txt").read_text() == "dear" for path in (*theirs, tmp_path / "other.partial"))


def test_killed_twice_in_a_row_goes_on_from_the_last_finished_layer(parent, tmp_path, tokenizer):
    settings, seen = replace(SETTINGS, layers=0), []

    def run(out, stop=None):
        def observe(what, done, total, report=None):
            if report is not None:
                seen.append(report.layer)
                if report.layer == stop:
                    raise Killed

        return prune_to(out, opened(parent), tokenizer, tokens(), settings, progress=observe)

    for stop in (0, 1):
        with pytest.raises(Killed):
            run(tmp_path / "small", stop)
    done = run(tmp_path / "small")
    assert seen == [0, 1, 2]  # none was done twice
    assert [report.layer for report in done.report.layers] == [0, 1, 2]
    run(tmp_path / "calm" / "small")
    assert content(tmp_path / "small") == content(tmp_path / "calm" / "small")


def test_widths_are_measured_anew_only_if_there_is_no_plan_yet(parent, tmp_path, tokenizer, monkeypatch):
    times, stop = [], None

    def counted(*arguments, **options):
        times.append(1)
        return sensitivity(*arguments, **options)

    def observe(what, done, total, report=None):
        if (what, done) == stop:
            raise Killed

    def run(out, **options):
        return prune_to(out, opened(parent), tokenizer, tokens(8), MEASURED, **options)

    monkeypatch.setattr("comp_lib.planning.sensitivity", counted)
    plan = run(tmp_path / "calm" / "small").plan
    for stop, measured in ((("comparing answers", 64), 2), (("pruning", 1), 1)):
        out, times = tmp_path / stop[0] / "small", []
        with pytest.raises(Killed):
            run(out, progress=observe)
        assert run(out).plan == plan and len(times) == measured
        assert content(out) == content(tmp_path / "calm" / "small")


SCRIPT = """
import sys, time
sys.path[:0] = sys.argv[3:]
from test_from_disk import SETTINGS, opened, tokens
from comp_lib.disk.from_disk import prune_to
from transformers import AutoTokenizer
parent, out = sys.argv[1:3]

def observe(what, done, total, report=None):
    if report is not None:
        print(report.layer, flush=True)
        time.sleep(60)

prune_to(out, opened(parent), AutoTokenizer.from_pretrained(parent), tokens(), SETTINGS, progress=observe)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_running_process_keeps_others_out_and_kill_9_lets_them_in(
    python, parent, calm, tmp_path, tokenizer
):
    out = tmp_path / "small"
    command = [*python, "-c", SCRIPT, str(parent), str(out), *map(str, Path(__file__).parents[:2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()  # a layer is finished, and the process sleeps
        with pytest.raises(InputError, match="another process that prunes"):
            prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
        process.send_signal(signal.SIGKILL)
        process.stdout.read()  # ends with the process
    prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
    assert content(out) == content(calm)


def test_another_request_is_refused_by_what_differs(parent, tmp_path, tokenizer):
    out = tmp_path / "small"

    def stop(what, done, total, report=None):
        if report is not None:
            raise Killed

    with pytest.raises(Killed):
        prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS, progress=stop)
    with pytest.raises(InputError, match="different: settings"):
        prune_to(out, opened(parent), tokenizer, tokens(), replace(SETTINGS, ratio=0.4))
    with pytest.raises(InputError, match="different: calibration"):
        prune_to(out, opened(parent), tokenizer, tokens(seed=1), SETTINGS)
    with pytest.raises(InputError, match="different: dtype"):
        prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS, saving=Saving(dtype=torch.float16))
    other, _ = saved(tmp_path / "other", "tied")
    with pytest.raises(InputError, match="different: model"):
        prune_to(out, opened(other), tokenizer, tokens(), SETTINGS)


def test_what_cannot_be_done_is_refused_before_any_work(tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    with pytest.raises(InputError, match="needs the whole model"):
        prune_to(
            tmp_path / "a",
            opened(parent),
            tokenizer,
            tokens(),
            Settings(method="llm-pruner", recovery="none"),
        )
    with pytest.raises(InputError, match="a pruned model to overwrite"):
        prune_to(
            parent,
            opened(parent),
            tokenizer,
            tokens(),
            SETTINGS,
            saving=Saving(name=str(parent), overwrite=True),
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="a new or an empty folder"):
        prune_to(tmp_path / "full", opened(parent), tokenizer, tokens(), SETTINGS)
    assert {path.name for path in tmp_path.iterdir()} == {"parent", "full"}
    with pytest.raises(InputError, match="whole layers can reach"):
        prune_to(tmp_path / "a", opened(parent), tokenizer, tokens(), Settings(ratio=0.9, method="shortgpt"))
    assert not (tmp_path / "a.partial" / "progress.json").exists()  # which would refuse another request


def test_not_a_number_is_refused_by_name(tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    tensors = load_file(parent / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, parent / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj"):
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_are_a_tensor_on_disk(dtype, tmp_path):
    values = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    states = StatesFile.create(tmp_path, values.shape, dtype)
    states[0:2], states[2:5] = values[:2], values[2:]
    assert torch.equal(states[0:5], values) and torch.equal(states[1:3], values[1:3])
    other = StatesFile.create(tmp_path, values.shape, dtype)
    assert other.path != states.path and not other[0:5].any()


@pytest.mark.parametrize("name, kind", [("tied", "q8_0"), ("qwen2", "f16")])
def test_a_gguf_file_is_read_as_it_is(name, kind, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    parent, _ = saved(tmp_path / "parent", name, intermediate_size=64)  # blocks of q8_0
    tokenizer.save_pretrained(parent)
    file = export_gguf(parent, tmp_path / "model.gguf", kind)
    source = OnDisk(*open_model(file, "float32")[:2])
    assert not (tmp_path / "cache").exists()  # nothing was converted
    written = prune_to(tmp_path / "small", source, tokenizer, tokens(), SETTINGS)
    loaded, _ = load_model(file)
    for index, layer in enumerate(loaded.model.layers):
        assert all(
            torch.equal(layer.state_dict()[k], v) for k, v in source.layer(index, "cpu").state_dict().items()
        )
    inside = prune(loaded, tokens(), SETTINGS)
    assert written.plan.kept_neurons == inside.plan.kept_neurons
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    for key, value in inside.model.state_dict().items():
        torch.testing.assert_close(small.state_dict()[key], value)


@pytest.mark.usefixtures("own_cache")
def test_what_lies_beside_a_gguf_file_is_not_of_it(tmp_path, tokenizer):
    folder, _ = saved(tmp_path / "parent")
    tokenizer.save_pretrained(folder)
    file = export_gguf(folder, tmp_path / "m.gguf", "f16")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7, "pad_token_id": 7}')
    model = OnDisk(*open_model(str(file), "float32")[:2])
    prune_to(tmp_path / "small", model, tokenizer, tokens(), SETTINGS)
    assert ": 7" not in (tmp_path / "small" / "generation_config.json").read_text()
