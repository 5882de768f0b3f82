"""A saved folder loads elsewhere with the same logits, says what it is, and is never half written."""

from __future__ import annotations

import copy
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
from transformers import AutoModelForCausalLM
from variants import FAMILIES, LAYOUTS, LISTS_OF_FOUR, VARIANTS, build, tokens

from comp_lib.checkpoints import new_folder
from comp_lib.checkpoints import save as checkpoint
from comp_lib.checkpoints.card import Provenance, model_card
from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.new_folder import check_new_folder
from comp_lib.checkpoints.padded import export_padded
from comp_lib.checkpoints.save import save_checkpoint
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import has_inseparable_groups
from comp_lib.decoder.surgery import keep_layers, shrink
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow


def tiny(name: str = "gqa", **overrides):
    return build(name, num_hidden_layers=4, **LISTS_OF_FOUR.get(name, {}), **overrides)


def cut(model, *, per_layer: bool = False):
    """Layers 0, 2 and 3 of a four-layer model, 40 neurons in each (or 40, 20, 40), half of its KV groups."""
    shape = Shape.of(model)
    keep_layers(model, [0, 2, 3])
    for index, layer in enumerate(model.model.layers):
        shrink(layer, "mlp", torch.arange(20 if per_layer and index == 1 else 40))
        if shape.kv_groups[0] > 1 and not has_inseparable_groups(model):
            shrink(layer, "attention", torch.arange(shape.kv_groups[0] // 2))
    return shape, model


def facts(before: Shape, model, **changes) -> tuple[Plan, Provenance]:
    after = Shape.of(model)
    removed = 1 - after.decoder_parameters / before.decoder_parameters
    parent = "someone/tiny-llama"
    plan = Plan(parent, 4, (0, 2, 3), after.neurons, after.kv_groups, ratio=0.2, removed=removed)
    card = Provenance(
        parent,
        before,
        "32 x 256 tokens of calibration.txt",
        {"method": "comp", "seed": 0},
        perplexities=(("evaluation.txt", 6144, 30.09, 41.5),),
    )
    return plan, replace(card, **changes)


def digest(folder: Path) -> dict[str, str] | None:
    """File name -> hash of its bytes; None when there is no folder."""
    if not folder.exists():
        return None
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def siblings(folder: Path) -> list[str]:
    """The names of what lies beside `folder`."""
    return sorted(path.name for path in folder.parent.iterdir() if path != folder)


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


# --- content ------------------------------------------------------------------------------------------------


# Loads every folder in a folder, and prints how far the logits are from those that are stored beside it.
LOAD_ALL = """
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
    result[folder.name] = [difference, sum(map(len, info.values())), type(model).__name__, str(model.dtype)]
print(json.dumps({"comp_lib": "comp_lib" in sys.modules, "result": result}))
"""


def save_all_layouts(out, tokenizer):
    """Save a pruned model of each layout and one in bfloat16; beside each folder lie its logits."""
    ids = tokens(2)  # (S, L)
    for name in (*LAYOUTS, "bfloat16"):
        before, model = cut(tiny() if name == "bfloat16" else tiny(name))
        if name == "bfloat16":
            # a cast rounds the frequencies, which are exact in a model that is loaded
            frequencies = model.model.rotary_emb.inv_freq
            model.bfloat16().model.rotary_emb.inv_freq = frequencies
        save_checkpoint(out / name, model, tokenizer, *facts(before, model))
        with torch.no_grad():
            torch.save((ids, model(ids).logits), out / f"{name}.pt")


def test_stock_folders_load_without_comp_lib(tokenizer, tmp_path):
    """One process loads all of them, and never comes across comp_lib."""
    save_all_layouts(tmp_path, tokenizer)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert not answer["comp_lib"]
    assert answer["result"].keys() == {*LAYOUTS, "bfloat16"}
    for name, (difference, loading_issues, kind, dtype) in answer["result"].items():
        exact = name != "bfloat16"  # whose products round by how many rows they have, on some processors
        assert difference < (1e-5 if exact else 0.1), name
        assert loading_issues == 0, name
        family = VARIANTS.get(name, {}).get("family", "llama")
        assert kind == FAMILIES[family][1].__name__, name
        assert dtype == ("torch.bfloat16" if name == "bfloat16" else "torch.float32"), name


def test_an_uneven_folder_is_the_model_and_its_card_says_how_to_load_it(uneven, python, tmp_path):
    model, tokenizer, *_ = uneven
    folder = save_checkpoint(tmp_path / "uneven", *uneven)
    loaded, its_tokenizer = load_model(folder)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert its_tokenizer("a b")["input_ids"] == tokenizer("a b")["input_ids"]
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    run = subprocess.run(
        [*python, "-c", f"{code}\nprint(type(model).__name__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.stdout.split()[-1] == "CompLlamaForCausalLM", run.stderr


@pytest.mark.parametrize("kind", ["small", "uneven"])
def test_files(kind, request, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *request.getfixturevalue(kind))
    expected = {
        "README.md",
        "comp_plan.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(digest(folder)) == (expected if kind == "small" else expected | {"modeling_comp_llama.py"})
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    assert Plan.load(folder / "comp_plan.json") == request.getfixturevalue(kind)[2]
    assert siblings(folder) == []


@pytest.mark.parametrize("kind", ["small", "uneven"])
def test_same_input_same_bytes_and_the_model_is_left_alone(kind, request, tmp_path):
    model, *rest = request.getfixturevalue(kind)
    config = model.config.to_dict()
    tensors = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    first = save_checkpoint(tmp_path / "one" / "out", model, *rest)
    second = save_checkpoint(tmp_path / "two" / "out", model, *rest)
    assert digest(first) == digest(second)
    assert model.config.to_dict() == config
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == tensors[name][0]
        assert torch.equal(tensor, tensors[name][1])


@pytest.mark.parametrize("kind", ["small", "uneven"])
def test_nothing_tells_of_this_machine_or_of_the_parents_format(kind, request, tmp_path):
    """A model read from a GGUF file has a quantizer, its config, and a path in several places."""
    model, tokenizer, plan, card = request.getfixturevalue(kind)
    parent = tmp_path / "secret" / "parent"
    parent.mkdir(parents=True)
    model.hf_quantizer = object()
    model.config.quantization_config = {"quant_method": "gguf"}
    model.config._name_or_path = str(parent)
    model.config._model_name_or_path = "Tiny 1M"
    model.config.auto_map = {"AutoConfig": "code.Config"}
    plan = replace(plan, parent=str(parent))
    card = replace(card, parent_name=str(parent), settings={"model": parent})
    folder = save_checkpoint(tmp_path / "out", model, tokenizer, plan, card)
    for path in folder.iterdir():
        content = path.read_bytes()
        for word in ("secret", str(tmp_path), "gguf", "quantization", "Tiny 1M", "code.Config"):
            assert word.encode() not in content, f"{word} in {path.name}"
    assert Plan.load(folder / "comp_plan.json").parent == "parent"
    assert yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["base_model"] == "parent"


def test_card(small, uneven, tmp_path):
    model, _, plan, card = small
    shape = Shape.of(model)
    text = model_card("out", shape, plan, card, "llama")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "unknown"
    assert front["base_model"] == "someone/tiny-llama"
    assert front["library_name"] == "transformers"
    assert "comp-lib" in front["tags"]
    for line in (
        "| decoder layers | 4 | 3 |",
        "| MLP neurons per layer | 48 | 40 |",
        "| KV heads per layer | 2 | 1 |",
        f"| parameters of the model | {card.parent_shape.total_parameters:,} | {shape.total_parameters:,} |",
        "Calibrated on 32 x 256 tokens of calibration.txt. Settings: method comp, seed 0.",
        "| perplexity on evaluation.txt (6,144 tokens) | 30.09 | 41.50 |",
    ):
        assert line in text
    assert f"{plan.removed:.1%} of the parameters of its decoder" in text
    assert "import comp_lib" not in text
    assert "trust_remote_code" not in text

    text = model_card(
        "out",
        Shape.of(uneven[0]),
        uneven[2],
        replace(card, parent_name=INCLUDED_MODEL, perplexities=()),
        "llama",
    )
    assert "| MLP neurons per layer | 48 | 20 to 40 |" in text
    assert "`modeling_comp_llama.py`. Read it" in text
    assert 'AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True)' in text
    assert "`comp_lib.load_model` gives both without the flag" in text
    assert "perplexity on" not in text
    assert 'license: "apache-2.0"' in text
    assert "HuggingFaceTB/SmolLM2" in text


def test_room_is_wanted_for_all_that_is_written(small, uneven, tmp_path, monkeypatch):
    needed = []
    monkeypatch.setattr(new_folder, "check_room", lambda folder, size, purpose: needed.append(size))
    for name, arguments in {"small": small, "uneven": uneven}.items():
        folder = save_checkpoint(tmp_path / name, *arguments)
        written = sum(path.stat().st_size for path in folder.iterdir())
        assert written <= needed[-1] <= written + new_folder.SMALL_FILES_BYTES


def test_more_weights_are_shards_with_an_index(small, monkeypatch, tmp_path):
    """transformers' own limit is 50 GB, more than many file systems and uploads take."""
    monkeypatch.setattr(checkpoint, "LARGEST_FILE_BYTES", 20_000)
    folder = save_checkpoint(tmp_path / "out", *small)
    shards = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    assert len(shards) > 2
    assert "model.safetensors" not in shards
    assert all(
        len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= 20_000 for shard in shards.values()
    )
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {name: file for file, shard in shards.items() for name in shard}
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokens(2)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, small[0](ids).logits)


# --- refusals -----------------------------------------------------------------------------------------------


def assert_refused(match, folder, *arguments, **keywords):
    """`check_new_folder` refuses `folder` in one line, and changes nothing."""
    everything = sorted(folder.parent.rglob("*")) if folder.parent.is_dir() else None
    with pytest.raises(InputError, match=match) as error:
        check_new_folder(folder, *arguments, **keywords)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert everything is None or sorted(folder.parent.rglob("*")) == everything


def test_destination_accepted(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        check_new_folder(folder)
        check_new_folder(folder, overwrite=True, needed_bytes=1)
    assert not (tmp_path / "a").exists()


def test_destination_in_the_home_folder(monkeypatch, small, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert save_checkpoint("~/models/out", *small) == tmp_path / "models" / "out"


def test_destination_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("file", "file/below"):
        assert_refused("expected a folder that can be written to", tmp_path / name, overwrite=True)


def test_only_a_pruned_model_is_overwritten(small, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("{}")  # as many a folder has that is no checkpoint
    assert_refused("or set overwrite", folder)
    assert_refused("no comp_plan.json", folder, overwrite=True)
    good = save_checkpoint(tmp_path / "good", *small)
    assert_refused("or set overwrite", good)
    check_new_folder(good, overwrite=True)
    (good / "comp_plan.json").unlink()  # a model that somebody trained, say
    assert_refused("no comp_plan.json", good, overwrite=True)


def test_destination_cannot_be_written(monkeypatch, tmp_path):
    """The test answers for os.access, since root may write everywhere."""
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    assert_refused("expected a folder that can be written to", tmp_path / "locked" / "new")


def test_destination_without_room(monkeypatch, small, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(100, 99, 1))
    assert_refused("MB of free disk space", tmp_path / "out", needed_bytes=2)
    with pytest.raises(InputError, match="MB of free disk space"):
        save_checkpoint(tmp_path / "out", *small)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_old_model(small, uneven, small_disk, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *small)
    old = digest(folder)
    with small_disk(10_000), pytest.raises(InputError, match="what was there stays"):
        save_checkpoint(folder, *uneven, overwrite=True)
    assert digest(folder) == old
    assert siblings(folder) == []


def test_overwrite(small, uneven, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *small)
    (folder / "tokenizer.model").write_text("left over from the old one")
    save_checkpoint(folder, *uneven, overwrite=True)
    assert digest(folder) == digest(save_checkpoint(tmp_path / "elsewhere" / "out", *uneven))
    assert siblings(folder) == ["elsewhere"]


@pytest.mark.parametrize("name", ["notes.txt", "checkpoint-100"])
def test_overwrite_never_deletes_what_is_no_model(name, small, uneven, tmp_path):
    folder = save_checkpoint(tmp_path / "out", *small)
    if "." in name[1:]:
        (folder / name).write_text("theirs")
    else:
        (folder / name).mkdir()
    before = (folder / "model.safetensors").read_bytes()
    assert_refused(f"nothing beside it, got .*with {name} in it", folder, overwrite=True)
    with pytest.raises(InputError, match="nothing beside it"):
        save_checkpoint(folder, *uneven, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert (folder / name).exists()


def edit(path):
    path.write_text(path.read_text("utf-8") + "A line of theirs.\n", "utf-8")


def in_place_of(path, make):
    path.unlink(missing_ok=True)
    make(path)


THEIR_WORK = {  # what somebody did in a folder of ours -> the name that is refused, and how it was done
    "an edited card": ("README.md", edit),
    "a licence": (
        "README.md",
        lambda path: path.write_text(path.read_text("utf-8").replace("unknown", "mit"), "utf-8"),
    ),
    "another card": ("README.md", lambda path: path.write_text("# Theirs\n", "utf-8")),
    "a card in Latin-1": ("README.md", lambda path: path.write_bytes(b"caf\xe9")),
    "a folder as card": ("README.md", lambda path: in_place_of(path, Path.mkdir)),
    "a link as card": ("README.md", lambda path: in_place_of(path, lambda it: it.symlink_to("config.json"))),
    "an edited template": ("chat_template.jinja", edit),
    "an edited second template": ("additional_chat_templates/tools.jinja", edit),
    "a third template": ("additional_chat_templates/theirs.jinja", lambda path: path.write_text("theirs")),
    "a file of theirs": ("additional_chat_templates/notes.txt", lambda path: path.write_text("theirs")),
    "a folder below": ("additional_chat_templates/theirs.jinja", Path.mkdir),
    "a folder as config": ("config.json", lambda path: in_place_of(path, Path.mkdir)),
    "a folder as tokenizer": ("vocab.json", Path.mkdir),
}


@pytest.fixture
def with_templates(small, tmp_path):
    """A folder of ours, with two chat templates."""
    model, tokenizer, plan, card = small
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    return save_checkpoint(tmp_path / "out", model, tokenizer, plan, card)


def without_checksums(folder):
    """Make of a folder what an earlier version saved."""
    card = folder / "README.md"
    text, record, _ = card.read_text("utf-8").partition("\n<!-- checksums: ")
    assert record
    card.write_text(text, "utf-8")


@pytest.mark.parametrize("work", THEIR_WORK)
def test_overwrite_never_deletes_what_somebody_else_wrote(work, with_templates):
    name, make = THEIR_WORK[work]
    make(with_templates / name)
    assert_refused(f"nothing beside it, got .*with {name} in it", with_templates, overwrite=True)


def test_a_card_and_templates_of_ours_are_overwritten(with_templates, uneven):
    assert len(list((with_templates / "additional_chat_templates").iterdir())) == 1
    check_new_folder(with_templates, overwrite=True)
    save_checkpoint(with_templates, *uneven, overwrite=True)
    assert not (with_templates / "additional_chat_templates").exists()
    check_new_folder(with_templates, overwrite=True)


def insert(path):
    text = path.read_text("utf-8")
    path.write_text(text.replace("## How to load", "A line of theirs.\n\n## How to load"), "utf-8")


@pytest.mark.parametrize("edit_it", [insert, edit, lambda path: None])
def test_a_card_of_an_earlier_version_is_somebodys(edit_it, with_templates):
    """It has no checksum, so a line that somebody put in its middle cannot be told from ours."""
    without_checksums(with_templates)
    edit_it(with_templates / "README.md")
    assert_refused(
        r"with README.md in it: .*a README.md without its checksums, as of earlier versions, counts as some",
        with_templates,
        overwrite=True,
    )


@pytest.mark.parametrize("work", ["a file of theirs", "a folder below"])
def test_work_in_a_folder_of_an_earlier_version_is_not_deleted(work, with_templates):
    without_checksums(with_templates)
    name, make = THEIR_WORK[work]
    make(with_templates / name)
    assert_refused(f"with {name} in it", with_templates, overwrite=True)


def test_templates_without_their_card_are_somebodys(with_templates):
    (with_templates / "README.md").unlink()
    assert_refused(
        "with chat_template.jinja, additional_chat_templates/tools.jinja in it", with_templates, True
    )


@pytest.mark.parametrize("wrong", ["5", "[" * 100_000])
def test_checksums_that_make_no_sense_are_an_edited_card(wrong, with_templates):
    card = with_templates / "README.md"
    card.write_text(card.read_text("utf-8").replace("checksums: {", f"checksums: {wrong} {{"), "utf-8")
    assert_refused("with README.md", with_templates, overwrite=True)


def test_a_padded_folder_is_overwritten_and_its_edited_card_is_not(uneven, tmp_path):
    folder = save_checkpoint(tmp_path / "uneven", *uneven)
    padded = export_padded(folder, tmp_path / "padded")
    export_padded(folder, padded, overwrite=True)
    edit(padded / "README.md")
    with pytest.raises(InputError, match=r"with README\.md in it"):
        export_padded(folder, padded, overwrite=True)


def test_a_card_that_is_no_text_is_padded_all_the_same(uneven, tmp_path):
    folder = save_checkpoint(tmp_path / "uneven", *uneven)
    (folder / "README.md").write_bytes(b"caf\xe9")
    (folder / "comp_plan.json").write_bytes(b"caf\xe9")
    padded = export_padded(folder, tmp_path / "padded")
    assert "caf" in (padded / "README.md").read_text("utf-8")


@pytest.fixture
def secret(tmp_path):
    """A file that is nobody else's business, outside of the model's folder."""
    path = tmp_path / "home" / "key"
    path.parent.mkdir()
    path.write_text("a secret", "utf-8")
    return path


@pytest.mark.parametrize("name", ["README.md", "comp_plan.json", "chat_template.jinja"])
def test_a_link_to_somebody_s_file_is_not_copied(uneven, tmp_path, secret, name):
    folder = save_checkpoint(tmp_path / "uneven", *uneven)
    in_place_of(folder / name, lambda path: path.symlink_to(secret))
    with pytest.raises(InputError, match=f"lie in the model's folder, got .*{name}', a link to somewhere"):
        export_padded(folder, tmp_path / "padded")
    assert siblings(tmp_path / "padded") == ["home", "uneven"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_template_that_is_a_link_is_not_read(with_templates, secret, is_folder):
    templates = with_templates / "additional_chat_templates"
    if is_folder:
        shutil.rmtree(templates)
        (secret.parent / "a.jinja").write_text("a secret", "utf-8")
        templates.symlink_to(secret.parent)
    else:
        in_place_of(templates / "tools.jinja", lambda path: path.symlink_to(secret))
    with pytest.raises(InputError, match="a link to somewhere else"):
        load_model(with_templates)


def test_links_of_the_hub_s_cache_are_followed(uneven, tmp_path):
    """There each file of a snapshot is a link into `blobs`; another link out of it is none of these."""
    folder = save_checkpoint(tmp_path / "hub" / "snapshots" / "abc", *uneven)
    (tmp_path / "hub" / "blobs").mkdir()
    for path in list(folder.iterdir()):
        path.rename(tmp_path / "hub" / "blobs" / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    padded = export_padded(folder, tmp_path / "padded")
    assert (padded / "comp_plan.json").read_bytes() == (folder / "comp_plan.json").read_bytes()
    (tmp_path / "hub" / "theirs").write_text("a secret", "utf-8")
    in_place_of(folder / "README.md", lambda path: path.symlink_to("../../theirs"))
    with pytest.raises(InputError, match="a link to somewhere else"):
        export_padded(folder, tmp_path / "other")


def test_an_interruption_leaves_the_old_folder_or_none(monkeypatch, small, uneven, tmp_path):
    old = digest(save_checkpoint(tmp_path / "old", *small))

    def fail(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_metadata", fail)
    for name in ("old", "new"):
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path / name, *uneven, overwrite=True)
    assert digest(tmp_path / "old") == old
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
