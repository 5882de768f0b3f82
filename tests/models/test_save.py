"""What is on disk: loads elsewhere with the same logits, says what it is, and is never half written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from variants import FAMILIES, FOUR, VARIANTS, build, tokens

from comp_lib.errors import InputError
from comp_lib.families import family_of
from comp_lib.models import save as checkpoint
from comp_lib.models.save import (
    Provenance,
    check_destination,
    estimated_bytes,
    foreign_files,
    model_card,
    save_checkpoint,
)
from comp_lib.plan import Plan
from comp_lib.shape import Shape
from comp_lib.surgery import keep_layers, shrink_attention, shrink_mlp
from comp_lib.system import atomic, tensor_files
from comp_lib.system.tensor_files import Layout


def tiny(name: str = "gqa", **overrides):
    return build(name, num_hidden_layers=4, **FOUR.get(name, {}), **overrides)


def cut(model, *, per_layer: bool = False):
    """Layers 0, 2 and 3 of a four-layer model, 40 neurons in each (or 40, 20, 40), half of what KV groups can go."""
    shape = Shape.of(model)
    keep_layers(model, [0, 2, 3])
    for index, layer in enumerate(model.model.layers):
        shrink_mlp(layer, torch.arange(20 if per_layer and index == 1 else 40))
        if shape.kv_groups[0] > 1 and not family_of(model).whole_attention:
            shrink_attention(layer, torch.arange(shape.kv_groups[0] // 2))
    return shape, model


def facts(before: Shape, model, **changes) -> tuple[Plan, Provenance]:
    after = Shape.of(model)
    removed = 1 - after.decoder / before.decoder
    parent = "someone/tiny-llama"
    plan = Plan(parent, 4, (0, 2, 3), after.neurons, after.kv_groups, ratio=0.2, of="decoder", removed=removed)
    card = Provenance(
        parent,
        before,
        "apache-2.0",
        "32 x 256 tokens of calibration.txt",
        "full-condition",
        "least-squares",
        "0.1.0",
        settings={"method": "comp", "seed": 0},
        perplexities=(("evaluation.txt", 6144, 30.09, 41.5),),
    )
    return plan, replace(card, **changes)


def digest(folder: Path) -> dict[str, str] | None:
    """File name -> hash of its bytes; None when there is no folder."""
    if not folder.exists():
        return None
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def hidden(folder: Path) -> list[str]:
    """What saves left beside `folder`."""
    return sorted(path.name for path in folder.parent.iterdir() if path.name.startswith("."))


@pytest.fixture
def small(tokenizer):
    """The arguments of save_checkpoint after the folder, for a stock model."""
    before, model = cut(tiny())
    return model, tokenizer, *facts(before, model)


@pytest.fixture
def uneven(tokenizer):
    """The same for a model with per-layer widths."""
    before, model = cut(tiny(), per_layer=True)
    return model, tokenizer, *facts(before, model)


# --- content ----------------------------------------------------------------------------------------------------------


def test_stock_folders_load_without_comp_lib(tokenizer, tmp_path):
    """One process for all variants, which must never come across comp_lib."""
    ids = tokens(2)  # (S, L)
    for name in (*VARIANTS, "bfloat16"):
        before, model = cut(tiny() if name == "bfloat16" else tiny(name))
        if name == "bfloat16":
            frequencies = model.model.rotary_emb.inv_freq  # kept exact when a model is loaded, rounded by a cast
            model.bfloat16().model.rotary_emb.inv_freq = frequencies
        save_checkpoint(tmp_path / name, model, tokenizer, *facts(before, model))
        with torch.no_grad():
            torch.save((ids, model(ids).logits), tmp_path / f"{name}.pt")
    code = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
result = {}
for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    ids, expected = torch.load(folder.with_suffix(".pt"))
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        difference = (model(ids).logits - expected).abs().max().item()
    options = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0)
    same = torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))
    result[folder.name] = [difference, same, sum(map(len, info.values())), type(model).__name__, str(model.dtype)]
print(json.dumps({"comp_lib": "comp_lib" in sys.modules, "result": result}))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert not answer["comp_lib"]
    assert answer["result"].keys() == {*VARIANTS, "bfloat16"}
    for name, (difference, same, loading_issues, kind, dtype) in answer["result"].items():
        exact = name != "bfloat16"  # whose products round by how many rows they have, on some processors
        assert difference < (1e-5 if exact else 0.1) and loading_issues == 0, name
        assert same or name == "rope-dynamic" or not exact, name  # it rotates a growing text anew, not the cached keys
        family = VARIANTS.get(name, {}).get("family", "llama")
        assert kind == FAMILIES[family][1].__name__, name
        assert dtype == ("torch.bfloat16" if name == "bfloat16" else "torch.float32"), name


def test_per_layer_folder_loads_with_comp_lib(uneven, tmp_path):
    folder = save_checkpoint(tmp_path / "uneven", *uneven)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, uneven[0](ids).logits)
    assert AutoTokenizer.from_pretrained(folder)("a b")["input_ids"] == uneven[1]("a b")["input_ids"]


def test_stock_config_says_what_the_tensors_are(small, tmp_path):
    config = json.loads((save_checkpoint(tmp_path / "out", *small) / "config.json").read_text())
    expected = {"num_hidden_layers": 3, "intermediate_size": 40, "num_attention_heads": 2, "num_key_value_heads": 1}
    expected |= {"head_dim": 8, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32"}
    assert config.items() >= expected.items()
    assert "per_layer_config" not in config


@pytest.mark.parametrize("kind", ["small", "uneven"])
def test_files(kind, request, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *request.getfixturevalue(kind))
    assert set(digest(folder)) == {
        "README.md",
        "comp_plan.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    assert Plan.load(folder / "comp_plan.json") == request.getfixturevalue(kind)[2]
    assert hidden(folder) == []


@pytest.mark.parametrize("kind", ["small", "uneven"])
def test_same_input_same_bytes_and_the_model_is_left_alone(kind, request, tmp_path):
    model, *rest = request.getfixturevalue(kind)
    config, tensors = model.config.to_dict(), {k: (v.data_ptr(), v.clone()) for k, v in model.state_dict().items()}
    first = save_checkpoint(tmp_path / "one" / "out", model, *rest)
    second = save_checkpoint(tmp_path / "two" / "out", model, *rest)
    assert digest(first) == digest(second)
    assert model.config.to_dict() == config
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == tensors[name][0] and torch.equal(tensor, tensors[name][1])


@pytest.mark.parametrize("kind", ["small", "uneven"])
def test_nothing_tells_of_this_machine_or_of_the_parents_format(kind, request, tmp_path):
    """As after loading a GGUF file: a quantizer, its config, and a path in several places."""
    model, tokenizer, plan, card = request.getfixturevalue(kind)
    parent = tmp_path / "secret" / "parent"
    parent.mkdir(parents=True)
    model.hf_quantizer = object()
    model.config.quantization_config = {"quant_method": "gguf"}
    model.config._name_or_path = str(parent)
    model.config._model_name_or_path = "Tiny 1M"
    model.config.auto_map = {"AutoConfig": "code.Config"}
    plan, card = replace(plan, parent=str(parent)), replace(card, parent=str(parent), settings={"model": parent})
    folder = save_checkpoint(tmp_path / "out", model, tokenizer, plan, card)
    for path in folder.iterdir():
        content = path.read_bytes()
        for word in ("secret", str(tmp_path), "gguf", "quantization", "Tiny 1M", "auto_map"):
            assert word.encode() not in content, f"{word} in {path.name}"
    assert Plan.load(folder / "comp_plan.json").parent == "parent"
    assert yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["base_model"] == "parent"


def test_card(small, uneven, tmp_path):
    model, _, plan, card = small
    shape = Shape.of(model)
    text = model_card("out", shape, plan, card)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "apache-2.0" and front["base_model"] == "someone/tiny-llama"
    assert front["library_name"] == "transformers" and "comp-lib" in front["tags"]
    for line in (
        "| decoder layers | 4 | 3 |",
        "| MLP neurons per layer | 48 | 40 |",
        "| KV heads per layer | 2 | 1 |",
        f"| parameters of the model | {card.parent_shape.total:,} | {shape.total:,} |",
        "Decoder layers dropped (counted from 0 in the parent): 1.",
        "| calibrated on | 32 x 256 tokens of calibration.txt |",
        "| neurons chosen by | full-condition |",
        "| method | comp |",
        "| seed | 0 |",
        "| evaluation.txt | 6,144 | 30.09 | 41.50 |",
    ):
        assert line in text
    assert f"{plan.removed:.1%} of the parameters of its decoder" in text
    assert "import comp_lib" not in text and "Not measured" not in text

    text = model_card("out", Shape.of(uneven[0]), uneven[2], replace(card, perplexities=(), parent_licence=None))
    assert "| MLP neurons per layer | 48 | 20 to 40 |" in text
    assert "**This folder needs comp_lib.**" in text and "import comp_lib.models.per_layer_llama" in text
    assert "Not measured." in text and 'license: "unknown"' in text


def test_estimated_bytes(small, uneven, tmp_path):
    for name, arguments in {"small": small, "uneven": uneven}.items():
        folder = save_checkpoint(tmp_path / name, *arguments)
        written = sum(path.stat().st_size for path in folder.iterdir())
        shape = Shape.of(arguments[0])
        assert written <= estimated_bytes(shape, "float32") <= written + checkpoint.SMALL_FILES
        assert estimated_bytes(shape, torch.bfloat16) < estimated_bytes(shape, torch.float32)


def test_weights_up_to_5_gb_are_one_file(small, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *small)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    assert checkpoint.LARGEST == "5GB"


def test_more_weights_are_shards_with_an_index(small, monkeypatch, tmp_path):
    """transformers' own limit is 50 GB, more than many file systems and uploads take."""
    monkeypatch.setattr(checkpoint, "LARGEST", "20KB")
    folder = save_checkpoint(tmp_path / "out", *small)
    shards = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    assert len(shards) > 2 and "model.safetensors" not in shards
    assert all(len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= 20_000 for shard in shards.values())
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {name: file for file, shard in shards.items() for name in shard}
    model, ids = AutoModelForCausalLM.from_pretrained(folder), tokens(2)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, small[0](ids).logits)


@pytest.mark.parametrize("limit", ["20KB", "5GB"])
def test_files_laid_out_in_advance_are_those_of_a_save(limit, monkeypatch, tmp_path):
    model, (saved, laid_out) = tiny(), (tmp_path / "saved", tmp_path / "laid out")
    model.save_pretrained(saved, max_shard_size=limit)
    monkeypatch.setattr(tensor_files, "LARGEST", limit)
    tensors = model.state_dict()
    layout = Layout({name: tuple(tensor.shape) for name, tensor in tensors.items()}, torch.float32)
    laid_out.mkdir()
    layout.create(laid_out)
    layout.write(laid_out, {name: [tensor] for name, tensor in tensors.items()})
    files = sorted(path.name for path in saved.glob("*.safetensors"))
    assert files == sorted(path.name for path in laid_out.glob("*.safetensors"))
    for file in files:
        here, there = load_file(laid_out / file), load_file(saved / file)
        assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
    index = "model.safetensors.index.json"
    assert (laid_out / index).exists() == (saved / index).exists() == (limit == "20KB")
    if limit == "20KB":
        assert (
            json.loads((laid_out / index).read_text())["weight_map"]
            == (json.loads((saved / index).read_text())["weight_map"])
        )


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(match, folder, *arguments, **keywords):
    """check_destination says no, in one line, and touches nothing."""
    everything = sorted(folder.parent.rglob("*")) if folder.parent.is_dir() else None
    with pytest.raises(InputError, match=match) as error:
        check_destination(folder, *arguments, **keywords)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert everything is None or sorted(folder.parent.rglob("*")) == everything


def test_destination_accepted(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        check_destination(folder)
        check_destination(folder, overwrite=True, needed_bytes=1, sources=["someone/model"])
    assert not (tmp_path / "a").exists()


def test_destination_in_the_home_folder(monkeypatch, small, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert save_checkpoint("~/models/out", *small) == tmp_path / "models" / "out"
    with pytest.raises(InputError, match="apart from the model that is read"):
        check_destination(tmp_path / "models" / "out", overwrite=True, sources=["~/models/out"])


def test_destination_holds_what_the_model_links_to(small, tmp_path):
    """As in a snapshot of the Hub, whose files are links."""
    store, source = save_checkpoint(tmp_path / "store", *small), tmp_path / "snapshot"
    source.mkdir()
    for file in store.iterdir():
        (source / file.name).symlink_to(file)
    refused("apart from the model that is read", store, overwrite=True, sources=[source])


def test_destination_is_the_model_under_another_name(small, tmp_path, monkeypatch):
    """A second mount, or capital letters where they do not count: another path, the same folder."""
    source, alias = save_checkpoint(tmp_path / "source", *small), save_checkpoint(tmp_path / "alias", *small)
    real = os.stat

    def stat(path, **options):
        return real(source if os.fspath(path) == str(alias) else path, **options)

    monkeypatch.setattr(os, "stat", stat)
    refused("apart from the model that is read", alias, overwrite=True, sources=[source])


def test_destination_beside_a_folder_with_the_name_of_an_included_model(tmp_path, monkeypatch):
    (tmp_path / "smollm2-135m").mkdir()
    monkeypatch.chdir(tmp_path)
    check_destination(tmp_path / "smollm2-135m" / "small", sources=["smollm2-135m"])  # which is in its wheel


def test_destination_is_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / "new" / "below").mkdir(parents=True)
    for place in ("new", "new/below"):
        monkeypatch.chdir(tmp_path / place)
        refused("apart from the one you are in", tmp_path / "new", overwrite=True)
    shutil.rmtree(tmp_path / "new")
    check_destination(tmp_path / "other")  # from nowhere


def test_two_processes_that_sweep_the_same_leftover(tmp_path, monkeypatch):
    left = tmp_path / ".out.partial-999999999"
    left.mkdir()
    real = shutil.rmtree

    def late(path):
        real(path)
        raise FileNotFoundError(path)  # the other one was quicker

    monkeypatch.setattr(shutil, "rmtree", late)
    atomic.tidy(tmp_path / "out")
    assert not left.exists()


def test_destination_is_everything():
    with pytest.raises(InputError):
        check_destination("/", overwrite=True)


def test_destination_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    refused("got the file", tmp_path / "file", overwrite=True)
    refused("expected a folder that can be written to", tmp_path / "file" / "below")


def test_destination_is_not_empty(small, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("{}")  # as many a folder has that is no checkpoint
    refused("--overwrite", folder)
    refused("does not look like one", folder, overwrite=True)
    save_checkpoint(tmp_path / "good", *small)
    refused("--overwrite", tmp_path / "good")
    check_destination(tmp_path / "good", overwrite=True)


def test_destination_is_the_model_to_prune(small, tmp_path):
    source = save_checkpoint(tmp_path / "models" / "parent", *small)
    (tmp_path / "link").symlink_to(source)
    for name in (source, str(source), tmp_path / "link", source / "model.safetensors"):
        refused("apart from the model that is read", source, overwrite=True, sources=[name])
    refused("apart from the model that is read", tmp_path / "models", overwrite=True, sources=["", source])
    refused("apart from the model that is read", source / "pruned", sources=[source])

    model = AutoModelForCausalLM.from_pretrained(source)
    before = digest(source)
    with pytest.raises(InputError, match="apart from the model that is read"):
        save_checkpoint(source, model, *small[1:], overwrite=True)
    assert digest(source) == before


def test_destination_cannot_be_written(monkeypatch, tmp_path):
    """Asked through os.access, since root may write everywhere."""
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "out").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    refused("expected a folder that can be written to", tmp_path / "locked" / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "out" and access(path, mode))
    refused("expected a folder that can be replaced", tmp_path / "locked" / "out")
    monkeypatch.undo()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    refused("expected a folder that can be replaced", tmp_path / "locked" / "out")


def test_disk_is_full(monkeypatch, small, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100e9, 99e9, 1e6))
    check_destination(tmp_path / "out", needed_bytes=1_000_000)
    refused("expected 5 MB of free disk space .* got 1 MB", tmp_path / "out", needed_bytes=5_000_000)
    with pytest.raises(InputError, match="free disk space"):
        save_checkpoint(tmp_path / "out", *small)
    assert list(tmp_path.iterdir()) == []


def test_widths_that_the_family_cannot_express(tokenizer, tmp_path):
    before, model = cut(tiny("mistral"), per_layer=True)
    with pytest.raises(InputError, match="choose uniform widths"):
        save_checkpoint(tmp_path / "out", model, tokenizer, *facts(before, model))
    assert list(tmp_path.iterdir()) == []


# --- atomic writing ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch, tmp_path):
    """Both ways to replace a folder: the system's exchange, and the fallback where there is none."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    else:
        (tmp_path / ".one").mkdir(), (tmp_path / ".other").mkdir()
        exchanges = atomic._exchange(tmp_path / ".one", tmp_path / ".other")
        (tmp_path / ".one").rmdir(), (tmp_path / ".other").rmdir()
        if not exchanges:
            pytest.skip("this system or file system cannot exchange two names")
    return request.param


def test_overwrite(way, small, uneven, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *small)
    (folder / "tokenizer.model").write_text("left over from the old one")
    save_checkpoint(folder, *uneven, overwrite=True)
    assert digest(folder) == digest(save_checkpoint(tmp_path / "elsewhere" / "out", *uneven))
    assert hidden(folder) == []


@pytest.mark.parametrize("name", ["notes.txt", ".git", "checkpoint-100", "optimizer.safetensors"])
def test_overwrite_never_deletes_what_is_no_model(name, small, uneven, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *small)
    if "." in name[1:]:
        (folder / name).write_text("theirs")
    else:
        (folder / name).mkdir()
    before = (folder / "model.safetensors").read_bytes()
    refused(f"nothing beside it, got .*{name}", folder, overwrite=True)
    with pytest.raises(InputError, match="nothing beside it"):
        save_checkpoint(folder, *uneven, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() == before and (folder / name).exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_comes_beside_the_old_model_meanwhile_stays(way, moment, monkeypatch, small, uneven, tmp_path):
    """Seen before the names are exchanged, or just behind that."""
    folder = save_checkpoint(tmp_path / "out", *small)
    before, check, calls = digest(folder), atomic._check_known, []

    def someone_else_writes(old, target, foreign_files):
        calls.append(old)
        if len(calls) == (1 if moment == "before" else 2):
            (old / "notes.txt").write_text("theirs")
        check(old, target, foreign_files)

    monkeypatch.setattr(atomic, "_check_known", someone_else_writes)
    with pytest.raises(InputError, match="got notes.txt: move them away"):
        save_checkpoint(folder, *uneven, overwrite=True)
    assert (folder / "notes.txt").read_text() == "theirs"
    (folder / "notes.txt").unlink()
    assert digest(folder) == before and hidden(folder) == []


def test_an_error_leaves_the_old_folder_or_none(way, monkeypatch, small, uneven, tmp_path):
    old = digest(save_checkpoint(tmp_path / "old", *small))

    def fails(*arguments, **keywords):
        raise KeyboardInterrupt

    for place in ("_settle", "_publish"):
        with monkeypatch.context() as patch:
            patch.setattr(atomic, place, fails)
            for name in ("old", "new"):
                with pytest.raises(KeyboardInterrupt):
                    save_checkpoint(tmp_path / name, *uneven, overwrite=True)
    assert digest(tmp_path / "old") == old
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_rename_that_fails_puts_the_old_folder_back(monkeypatch, small, uneven, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *small)
    old, rename = digest(folder), os.replace

    def second_fails(source, target):
        if ".partial-" in Path(source).name:
            raise OSError("the disk is gone")
        rename(source, target)

    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(InputError, match="the disk is gone"):
        save_checkpoint(folder, *uneven, overwrite=True)
    assert digest(folder) == old and hidden(folder) == []


def test_files_that_appear_meanwhile_are_not_overwritten(monkeypatch, small, tmp_path):
    folder, settle = tmp_path / "out", atomic._settle

    def someone_else_writes(partial):
        settle(partial)
        folder.mkdir()
        (folder / "precious.txt").write_text("theirs")

    monkeypatch.setattr(atomic, "_settle", someone_else_writes)
    with pytest.raises(InputError, match="what was there stays"):
        save_checkpoint(folder, *small)
    assert [path.name for path in folder.iterdir()] == ["precious.txt"] and hidden(folder) == []


@pytest.mark.parametrize("content", [[], ["precious.txt"]])
def test_a_file_never_takes_the_place_of_a_folder(content, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for name in content:
        (folder / name).write_text("theirs")
    with pytest.raises(InputError, match="what was there stays"):
        atomic.write_atomically(folder, b"ours")
    assert [path.name for path in folder.iterdir()] == content and hidden(folder) == []


def test_leftovers_of_a_running_process_are_not_touched(small, tmp_path):
    running, stranger = tmp_path / f".out.partial-{os.getppid()}", tmp_path / ".out2.partial-999999999"
    dead, ours = tmp_path / ".out.partial-999999999", tmp_path / f".out.partial-{os.getpid()}"
    here, elsewhere = (tmp_path / f".out.partial-999999998-{host}" for host in (atomic.HOST, "other-machine"))
    for path in (running, stranger, dead, ours, here, elsewhere):
        path.mkdir()
    save_checkpoint(tmp_path / "out", *small)
    assert hidden(tmp_path / "out") == sorted([running.name, stranger.name, elsewhere.name])


def test_an_old_folder_set_aside_comes_back_before_any_work(small, tmp_path):
    """So that a run is refused at its start, not at its end."""
    folder = save_checkpoint(tmp_path / "out", *small)
    old = digest(folder)
    folder.rename(tmp_path / ".out.old-999999999")
    with pytest.raises(InputError, match="--overwrite"):
        check_destination(folder)
    assert digest(folder) == old


# One process imports the libraries and forks a child for each moment; the child saves and is killed there.
KILL = '''
import json, os, shutil, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging
logging.disable_progress_bar()  # forked processes share its lock: a child killed while holding it stops all others
from comp_lib.system import atomic
from comp_lib.models import save as checkpoint
import comp_lib.models.per_layer_llama
from comp_lib.families import family_of
from comp_lib.plan import Plan
from comp_lib.shape import Shape
from test_save import digest, facts, hidden

root = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(root / "A")
models = {name: AutoModelForCausalLM.from_pretrained(root / name) for name in "AB"}

def save(name, folder):
    model = models[name]
    checkpoint.save_checkpoint(folder, model, tokenizer, *facts(Shape.of(model), model), overwrite=True)

def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

def in_weights():
    def half(model, folder, **keywords):
        model.config.save_pretrained(folder)
        Path(folder, "model.safetensors").write_bytes(b"\\x00" * 1000)
        die()
    PreTrainedModel.save_pretrained = half

def before_rename():
    atomic._publish = die

def before_deleting_old():
    shutil.rmtree = die

def between_renames():
    rename = os.replace
    atomic._exchange = lambda one, other: False
    os.replace = lambda source, target: die() if ".partial-" in Path(source).name else rename(source, target)

def after_both_renames():
    atomic._exchange = lambda one, other: False
    shutil.rmtree = die

def killed(folder, arm):
    child = os.fork()
    if child == 0:
        arm()
        save("B", folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

def state(folder):
    found = digest(folder)
    return "none" if found is None else {str(known[n]): n for n in known}.get(str(found), "neither")

folder = root / "out"
known = {}
for name in "AB":
    save(name, folder)
    known[name] = digest(folder)

result = {}
for arm in (in_weights, before_rename, before_deleting_old, between_renames, after_both_renames):
    for old in ("A", "none"):
        shutil.rmtree(folder, ignore_errors=True)
        if old == "A":
            save("A", folder)
        died = killed(folder, arm)
        seen = state(folder)
        loads = seen == "none" or Shape.of(AutoModelForCausalLM.from_pretrained(folder)) is not None
        checkpoint.check_destination(folder, overwrite=True)
        restored = state(folder)
        save("B", folder)
        result[f"{arm.__name__}, {old}"] = [died, seen, loads, restored, state(folder), hidden(folder)]

def at_event(number):
    """Die at the child's n-th touch of the file system, as Python's audit events tell them."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        seen += event.startswith(("os.", "shutil.")) or (event == "open" and str(root) in str(arguments[0]))
        if seen == number:
            die()

    sys.addaudithook(hook)

save("A", folder)
everywhere = []
while killed(folder, lambda: at_event(len(everywhere) + 1)):
    seen = state(folder)
    checkpoint.check_destination(folder, overwrite=True)
    everywhere.append([seen, state(folder), hidden(folder)])
    if everywhere[-1][1] != "A":
        save("A", folder)
everywhere.append([state(folder), state(folder), hidden(folder)])
print(json.dumps({"moments": result, "everywhere": everywhere}))
'''


@pytest.fixture(scope="module")
def kills(tokenizer, tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    root = tmp_path_factory.mktemp("kills")
    for name, width in (("A", 48), ("B", 44)):
        before, model = cut(tiny(intermediate_size=width))
        save_checkpoint(root / name, model, tokenizer, *facts(before, model))
    run = subprocess.run(
        [sys.executable, "-c", KILL, root, *Path(__file__).parents[:2]], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    "moment", ["in_weights", "before_rename", "before_deleting_old", "between_renames", "after_both_renames"]
)
def test_kill_9_during_overwrite(kills, moment):
    died, seen, loads, restored, after, left = kills["moments"][f"{moment}, A"]
    assert died and loads
    new = moment in ("before_deleting_old", "after_both_renames")
    assert seen == ("B" if new else "none" if moment == "between_renames" else "A")
    assert restored == ("B" if new else "A")
    assert (after, left) == ("B", [])


@pytest.mark.parametrize("moment", ["in_weights", "before_rename", "between_renames"])
def test_kill_9_during_the_first_save(kills, moment):
    died, seen, _, restored, after, left = kills["moments"][f"{moment}, none"]
    assert died and seen == restored == "none"
    assert (after, left) == ("B", [])


def test_kill_9_at_any_moment(kills):
    """At each touch of the file system in turn: first the old folder, from some moment on the new one, nothing else."""
    everywhere = kills["everywhere"]
    restored = [after for _, after, _ in everywhere]
    assert restored == sorted(restored) and set(restored) == {"A", "B"}
    assert all(seen in ("none", after) for seen, after, _ in everywhere)  # "none" only where there is no exchange
    assert all(left == [] for *_, left in everywhere)


def test_names_on_the_card_are_no_html_and_no_second_line():
    shape, model = cut(tiny())
    bad = "a\n# Title <script>x</script> [here](http://a) |"
    plan, card = facts(
        shape, model, parent=bad, calibration=bad, parent_licence=None, perplexities=((bad, 1, 1.0, 1.0),)
    )
    text = model_card(bad, Shape.of(model), plan, replace(card, settings={"evaluated": bad}))
    front, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["base_model"] == bad
    prose = body[: body.index("```")] + body[body.rindex("```") :]
    assert "<script>" not in prose and "[here](" not in prose and "\n# Title" not in prose
    rows = [line for line in prose.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} <= {3, 4, 5}


def test_a_tokenizer_with_several_templates_is_of_the_model(tmp_path):
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    assert foreign_files(tmp_path) == []
    (tmp_path / "additional_chat_templates" / "notes.md").write_text("mine")
    assert foreign_files(tmp_path) == ["additional_chat_templates"]
