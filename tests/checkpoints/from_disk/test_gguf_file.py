"""`comp-lib prune model.gguf --out small.gguf`: types, bytes, what is refused, and what a kill leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from command import QUICK_FLAGS, ran, refused, run
from tools import torch_losses
from variants import PATTERNS, build, tokens

from comp_lib import Calibration, prune_model
from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.from_disk import from_disk, gguf_file, sink
from comp_lib.checkpoints.from_disk.ratio_search import round_weights
from comp_lib.checkpoints.from_disk.work_folder import JOURNAL, StatesFile
from comp_lib.checkpoints.gguf import llama_cpp
from comp_lib.checkpoints.gguf.read import GgufFile
from comp_lib.checkpoints.load import load_model, open_model
from comp_lib.checkpoints.new_folder import PLAN_FILE
from comp_lib.decoder.shape import Shape
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.windows import windows_of
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError

QUICK = {
    "calibration": Calibration("calibration", sequences=8, length=24),
    "judged_on": None,
    "preset": "stock",
}
LOSS_TOLERANCE = 0.02  # nats, of a mean: llama.cpp rounds the states as the weights


class Killed(BaseException):
    """The process is killed."""


@pytest.fixture(scope="module")
def parent_of(tmp_path_factory, tokenizer):
    """`parent_of("q8_0", "qwen2")`: a GGUF file of that type of a variant with wide enough layers."""
    files = {}

    def make(kind, name="gqa", **overrides):
        key = (kind, name, *overrides)
        if key not in files:
            run_folder = tmp_path_factory.mktemp("parents")
            model = build(name, **{"intermediate_size": 256} | PATTERNS.get(name, {}) | overrides)
            model.save_pretrained(run_folder / "folder")
            tokenizer.save_pretrained(run_folder / "folder")
            files[key] = export_gguf(run_folder / "folder", run_folder / "parent.gguf", kind)
        return files[key]

    return make


def types_in(file):
    """The types of the matrices of the layers of a GGUF file."""
    layers = [tensor for name, tensor in GgufFile(file).tensors.items() if name.startswith("blk.")]
    return {tensor.gguf_type.name for tensor in layers if len(tensor.shape) == 2}


def stored_bytes(file, name):
    """The bytes of a tensor of a GGUF file."""
    header = GgufFile(file)
    start = header.data_start + header.tensors[name].start
    return file.read_bytes()[start : start + header.tensors[name].n_bytes]


def rewritten(file, target, stored, names="blk."):
    """A copy of a GGUF file whose matrices, those whose names begin with `names`, are of the type `stored`.

    Types that gguf cannot write get random blocks.
    """
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            is_list = field.types[0] == gguf.GGUFValueType.ARRAY
            item_type = field.types[-1] if is_list else None
            writer.add_key_value(key, field.contents(), field.types[0], item_type)
    generator = np.random.default_rng(0)
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        if not tensor.name.startswith(names) or len(shape) == 1:
            writer.add_tensor(tensor.name, tensor.data, raw_shape=None, raw_dtype=tensor.tensor_type)
            continue
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        try:
            blocks = gguf.quantize(values, stored)
        except NotImplementedError:
            block_values, block_bytes = gguf.GGML_QUANT_SIZES[stored]
            size = (shape[0], shape[1] // block_values * block_bytes)
            blocks = generator.integers(0, 64, size, dtype=np.uint8)
        writer.add_tensor(tensor.name, blocks, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_1", "q4_0"])
def test_the_type_stays_and_what_pruning_does_not_touch_keeps_its_bytes(kind, parent_of, tmp_path, caplog):
    parent = parent_of(kind)
    verdict = prune_model(parent, tmp_path / "small.gguf", 0.3, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["small.gguf"]
    assert types_in(tmp_path / "small.gguf") == {kind.upper()}
    assert verdict.path == tmp_path / "small.gguf"
    assert (verdict.parent_stored_type, verdict.stored_type) == (kind.upper(), kind.upper())
    sizes = tuple(file.stat().st_size / 1e6 for file in (parent, verdict.path))
    assert (verdict.parent_megabytes, verdict.megabytes) == sizes
    assert verdict.parent_megabytes_in_new_type == sizes[0]
    assert sizes[1] < sizes[0]
    assert not caplog.messages
    norms = [] if kind == "f16" else ["output_norm.weight", "blk.0.attn_norm.weight"]  # these become f16 too
    for name in ("token_embd.weight", "blk.0.attn_q.weight", *norms):
        assert stored_bytes(parent, name) == stored_bytes(verdict.path, name), name
    small, _ = load_model(verdict.path)
    assert Shape.of(small) == verdict.shape


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_it_is_the_file_that_export_makes_of_the_folder(kind, parent_of, tmp_path):
    parent = parent_of(kind)
    prune_model(parent, tmp_path / "folder", **QUICK)
    (tmp_path / "two").mkdir()
    two_steps = export_gguf(tmp_path / "folder", tmp_path / "two" / "small.gguf", kind)
    prune_model(parent, tmp_path / "small.gguf", **QUICK)
    assert (tmp_path / "small.gguf").read_bytes() == two_steps.read_bytes()


def test_block_types_are_rounded_once(parent_of, tmp_path, monkeypatch):
    """From f32, where the folder of a quantised parent has bfloat16."""
    parent = parent_of("q4_1")
    finish = from_disk.finish_file

    def copy_and_finish(work, target, **options):
        shutil.copytree(work, tmp_path / "copy")
        finish(work, target, **options)

    monkeypatch.setattr(from_disk, "finish_file", copy_and_finish)
    prune_model(parent, tmp_path / "small.gguf", **QUICK)
    in_floats, _ = load_model(tmp_path / "copy")
    assert in_floats.config.dtype == torch.float32
    file = export_gguf(tmp_path / "copy", tmp_path / "copy" / "small.gguf", "q4_1", overwrite=True)
    assert (tmp_path / "small.gguf").read_bytes() == file.read_bytes()
    round_weights(in_floats, torch.float32, "q4_1")
    small, _ = load_model(file)
    for name, weight in small.state_dict().items():
        assert torch.equal(weight, in_floats.state_dict()[name]), name


@pytest.mark.parametrize(
    ("stored", "written"), [("Q5_0", "q8_0"), ("Q6_K", "q8_0"), ("Q4_K", "q4_1"), ("BF16", "f16")]
)
def test_a_type_that_is_not_written_becomes_the_nearest_above(stored, written, parent_of, tmp_path):
    wide = {"hidden_size": 256, "intermediate_size": 512} if stored.endswith("K") else {}
    source = parent_of("f32", **wide)
    parent = rewritten(source, tmp_path / "parent.gguf", gguf.GGMLQuantizationType[stored])
    result = ran("prune", parent, "--out", tmp_path / "small.gguf", *QUICK_FLAGS[:4], *QUICK_FLAGS[6:])
    assert types_in(tmp_path / "small.gguf") == {written.upper()}
    row = rf"weights, {written.upper()} .* MB .* MB  parent\.gguf itself: [0-9.]+ MB, {stored}\n"
    assert re.search(row, result.stdout), result.stdout


def test_a_type_that_is_not_written_is_said_before_any_work(parent_of, tmp_path, monkeypatch, caplog):
    parent = rewritten(parent_of("f32"), tmp_path / "parent.gguf", gguf.GGMLQuantizationType.Q5_0)

    def stop(*arguments):
        raise Killed

    monkeypatch.setattr("comp_lib.checkpoints.from_disk.prune_model._decide", stop)
    with pytest.raises(Killed):
        prune_model(parent, tmp_path / "small.gguf", **QUICK)
    (line,) = caplog.messages
    assert line == f"comp-lib does not write Q5_0: the matrices of {tmp_path / 'small.gguf'} will be q8_0"


def test_the_nearest_type_above():
    above = {
        "F64": "f32",
        "BF16": "f16",
        "Q5_K": "q8_0",
        "IQ4_NL": "q4_1",
        "IQ4_XS": "q4_0",
        "Q3_K": "q4_0",
        "Q8_K": "f16",
        "Q4_0": "q4_0",
    }
    assert {stored: gguf_file.gguf_type_above(stored, torch.float32) for stored in above} == above
    assert gguf_file.gguf_type_above("F32", torch.bfloat16) == "f16"


def test_the_head_and_the_tokens_do_not_decide(parent_of):
    """Files of 4 bits have those in 8 bits, and small models have many tokens."""
    _, files, _ = open_model(parent_of("q4_0", intermediate_size=32))
    by_type = {}
    for name, stored in files.stored_types.items():
        by_type[stored] = by_type.get(stored, 0) + np.prod(files.shapes[name])
    assert by_type["Q8_0"] > by_type["Q4_0"]
    assert gguf_file.matrix_type(files) == "Q4_0"


@pytest.mark.parametrize(("kind", "name", "preset"), [("q8_0", "qwen2", "best"), ("q4_0", "gqa", "stock")])
def test_the_verdict_judges_the_file_and_llama_cpp_agrees(kind, name, preset, parent_of, own_cache, tmp_path):
    parent = parent_of(kind, name)
    options = QUICK | {"judged_on": "evaluation:code", "preset": preset}
    verdict = prune_model(parent, tmp_path / "small.gguf", 0.3, **options)
    assert verdict.shape.uniform == (preset == "stock")
    small, tokenizer = load_model(verdict.path)
    windows = torch.cat([*windows_of("evaluation:code", tokenizer, 128, 12).values()])
    expected = measure_loss(small, windows).losses
    assert [after for _, after in verdict.losses] == pytest.approx(expected, abs=1e-5)
    ids = tokens(1, 24)
    server = llama_cpp.start(verdict.path, 25, threads=1, cache="f32")
    assert (llama_cpp.losses(server, ids) - torch_losses(small, ids)).mean().abs() < LOSS_TOLERANCE
    result = ran(
        "evaluate", verdict.path, "--against", parent, "--window-count", "2", "--window-length", "32"
    )
    assert "mean" in result.stdout


def test_at_most_judges_the_numbers_of_the_file(parent_of, tmp_path, monkeypatch):
    judged = []
    monkeypatch.setattr(
        "comp_lib.checkpoints.from_disk.ratio_search.round_weights",
        lambda model, dtype, kind: judged.append((dtype, kind)) or round_weights(model, dtype, kind),
    )
    options = QUICK | {"judged_on": "evaluation:code"}
    verdict = prune_model(parent_of("q4_0"), tmp_path / "small.gguf", at_most=5, **options)
    assert {*judged} == {(torch.float32, "q4_0")}
    assert verdict.report.settings.multiple % 32 == 0


def test_a_ratio_that_is_sought_later_gets_a_multiple_that_suits_any_ratio():
    """With a quarter gone one of these layers goes whole, so widths of 64 do; most ratios need others."""
    shape = Shape(
        hidden_size=64,
        head_dim=16,
        group_heads=2,
        neurons=(64,) * 4,
        kv_groups=(2,) * 4,
        neuron_parameters=192,
        group_parameters=6144,
        fixed_parameters=(128,) * 4,
        other_parameters=5000,
    )
    settings = Settings(ratio=0.25).completed()
    assert settings.plan_request(shape).multiple == 64
    for kind, ratio_known, multiple in (("q4_0", True, None), ("q4_0", False, 32), ("f16", False, None)):
        fitting = gguf_file.with_fitting_multiple(settings, shape, kind, ratio_known=ratio_known)
        assert fitting.multiple == multiple


def test_a_folder_becomes_a_file_too(tokenizer, tmp_path):
    build(intermediate_size=256, dtype=torch.bfloat16).save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    result = ran("prune", tmp_path / "folder", "--out", tmp_path / "small.gguf", *QUICK_FLAGS, "--json")
    verdict = json.loads(result.stdout)
    assert verdict["saved"] == str(tmp_path / "small.gguf")
    assert verdict["stored"] == {"before": "BF16", "after": "F16"}
    sizes = verdict["megabytes"]
    assert sizes["after"] < sizes["before_in_the_new_type"]
    assert sizes["before_in_the_new_type"] == pytest.approx(sizes["before"], rel=0.05)  # norms take 4 bytes
    assert types_in(tmp_path / "small.gguf") == {"F16"}


class Moments:
    """The moments of a run at which it may be killed."""

    def __init__(self, monkeypatch):
        self.names = []
        self.last = None  # number of the moment at which the run is killed, counted from 1
        for module, name in (
            (os, "replace"),
            (os, "fsync"),
            (Path, "unlink"),
            (StatesFile, "__setitem__"),
            (sink, "write_rows"),
            (from_disk, "export_gguf"),
        ):
            self.guard(monkeypatch, module, name)

    def guard(self, monkeypatch, module, name):
        real = getattr(module, name)

        def guarded(*arguments, **options):
            self.names.append(name)
            if len(self.names) == self.last:
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, guarded)


def moments_to_kill_at(names):
    """The middle moment of each function, and all moments from the export on."""
    middle = set()
    for name in set(names):
        numbers = [number for number, called in enumerate(names, 1) if called == name]
        middle.add(numbers[len(numbers) // 2])
    assert len(middle) == 6
    return sorted(middle | {*range(names.index("export_gguf") + 1, len(names) + 1)})


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bytes(parent_of, tmp_path, monkeypatch):
    parent = parent_of("q8_0")
    moments = Moments(monkeypatch)

    def prune_into(run_folder):
        run_folder.mkdir(exist_ok=True)
        prune_model(parent, run_folder / "small.gguf", **QUICK | {"judged_on": "evaluation:code"})

    prune_into(tmp_path / "undisturbed")
    expected = (tmp_path / "undisturbed" / "small.gguf").read_bytes()
    names = moments.names
    for last in moments_to_kill_at(names):
        run_folder = tmp_path / f"kill-{last}"
        moments.names = []
        moments.last = last
        with pytest.raises(Killed):
            prune_into(run_folder)
        moments.last = None
        prune_into(run_folder)
        message = f"killed at moment {last} of {len(names)}, {names[last - 1]}"
        assert (run_folder / "small.gguf").read_bytes() == expected, message
        assert [path.name for path in run_folder.iterdir()] == ["small.gguf"], message


def test_a_file_that_was_taken_away_before_the_end_is_made_anew(parent_of, tmp_path, monkeypatch):
    parent = parent_of("q8_0")
    out = tmp_path / "small.gguf"
    real_unlink = Path.unlink

    def killed_at_the_journal(path, *arguments, **options):
        if path.name == JOURNAL:
            raise Killed
        real_unlink(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed_at_the_journal)
        with pytest.raises(Killed):
            prune_model(parent, out, **QUICK)
    assert [path.name for path in (tmp_path / "small.gguf.partial").iterdir()] == [JOURNAL]
    expected = out.read_bytes()
    out.rename(tmp_path / "moved.gguf")
    prune_model(parent, out, **QUICK)
    assert out.read_bytes() == expected


def test_another_request_and_another_form_are_kept_apart(parent_of, tmp_path):
    parent = parent_of("q8_0")

    def stop(stage, count, total, report=None):
        if report is not None:
            raise Killed

    for out in ("small", "small.gguf"):
        with pytest.raises(Killed):
            prune_model(parent, tmp_path / out, **QUICK, progress=stop)
    with pytest.raises(InputError, match="different: settings"):
        prune_model(parent, tmp_path / "small.gguf", 0.3, **QUICK)
    prune_model(parent, tmp_path / "small", **QUICK)
    prune_model(parent, tmp_path / "small.gguf", **QUICK)
    assert (tmp_path / "small" / PLAN_FILE).is_file()


def test_what_is_there_is_replaced_only_if_it_is_said(parent_of, tmp_path):
    parent = parent_of("q8_0")
    out = tmp_path / "small.gguf"
    out.write_text("a letter")
    command = ("prune", parent, "--out", out, *QUICK_FLAGS[:4], *QUICK_FLAGS[6:])
    refused(run(*command), ["a new file", "which is there", "overwrite"])
    assert out.read_text() == "a letter"
    ran(*command, "--overwrite")
    assert types_in(out) == {"Q8_0"}


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda run_folder: run_folder.joinpath("out.gguf").mkdir(), {}, "a new file.*which is there"),
        (
            lambda run_folder: run_folder.joinpath("out.gguf").mkdir(),
            {"overwrite": True},
            "a new file.*which is there",
        ),
        (lambda run_folder: None, {"multiple": 48}, "a multiple of 32, for a file of the type q8_0, got.*48"),
        (
            lambda run_folder: None,
            {"method": "flap"},
            "a method whose widths are multiples of 32, for a file of the type q8_0, got flap",
        ),
        (
            lambda run_folder: run_folder.joinpath("out.gguf.partial").write_text("x"),
            {},
            "a folder or nothing as",
        ),
    ],
    ids=["folder", "folder-overwrite", "multiple", "flap", "file-at-work"],
)
def test_what_cannot_be_written_is_refused_before_any_work(make, options, message, parent_of, tmp_path):
    make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message) as error:
        prune_model(parent_of("q8_0"), tmp_path / "out.gguf", **QUICK | options)
    assert len(str(error.value).splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_method_that_rounds_its_widths_makes_a_file_in_blocks(parent_of, tmp_path):
    """The widths of SlimGPT differ from layer to layer, and are multiples of a block's 32 as COMP's are."""
    verdict = prune_model(parent_of("q8_0"), tmp_path / "out.gguf", **QUICK | {"method": "slimgpt"})
    widths = verdict.shape.neurons
    assert len(set(widths)) > 1
    assert not any(width % 32 for width in widths)
    small, _ = load_model(tmp_path / "out.gguf")
    assert Shape.of(small).neurons == widths


def test_no_folder_for_the_file(parent_of, tmp_path):
    with pytest.raises(InputError, match="a file in a folder that can be written to"):
        prune_model(parent_of("q8_0"), tmp_path / "nowhere" / "out.gguf", **QUICK)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_to_a_file_of_another_name(parent_of, tmp_path):
    """The work would end in a refusal of that name."""
    (tmp_path / "small.gguf").symlink_to(tmp_path / "blob")
    with pytest.raises(InputError, match="a name that ends in .gguf"):
        prune_model(parent_of("q8_0"), tmp_path / "small.gguf", **QUICK)


def test_the_parent_is_not_replaced(parent_of):
    parent = parent_of("f16")
    with pytest.raises(InputError, match="a file apart from the model"):
        prune_model(parent, parent, **QUICK, overwrite=True)


def test_a_method_with_widths_of_its_own_in_a_family_without_a_host(parent_of, tmp_path):
    parent = parent_of("f16", "gemma3")
    with pytest.raises(InputError, match="gemma3_text with several widths: choose another method; or prune"):
        prune_model(parent, tmp_path / "small.gguf", **QUICK | {"method": "flap"})
    prune_model(parent, tmp_path / "small.gguf", 0.3, **QUICK | {"method": "shortgpt"})


def test_several_widths_of_a_family_without_a_host(parent_of, tmp_path):
    parent = parent_of("q8_0", "gemma3", head_dim=16, query_pre_attn_scalar=16)
    command = ("prune", parent, "--out", tmp_path / "small.gguf", *QUICK_FLAGS[:4], *QUICK_FLAGS[6:])
    phrases = ["one width for all layers", "gemma3_text with several widths", "--preset stock", "--padded"]
    refused(run(*command), phrases)
    assert not list(tmp_path.iterdir())
    ran(*command, "--preset", "stock")
    assert types_in(tmp_path / "small.gguf") == {"Q8_0"}


def test_a_family_that_is_not_written_at_all(tokenizer, tmp_path):
    build("olmo2", tie_word_embeddings=True).save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    with pytest.raises(InputError, match="a model that llama.cpp runs, got olmo2 with a tied head"):
        prune_model(tmp_path / "folder", tmp_path / "small.gguf", **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
