"""Where foreign code is called: its errors become an InputError, a bug of our own keeps its traceback.

A row enters one block of `refusing` after the foreign function in it was replaced by one that raises an
AttributeError. Whether that is a bug of ours depends on the file that the raising line is in. There is a row
for every block of the package.
"""

from __future__ import annotations

import ast
import json
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import pandas as pd
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from variants import build, tokens

from comp_lib.calibration.self_generated import draw_prefixes
from comp_lib.calibration.texts import load_text
from comp_lib.checkpoints import load, locate, tensors
from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.from_disk.run_state import CarriedFiles, RunState
from comp_lib.checkpoints.from_disk.sink import DiskSink
from comp_lib.checkpoints.from_disk.work_folder import JOURNAL, Journal
from comp_lib.checkpoints.gguf.read import GgufFile, GgufTensors
from comp_lib.decoder.own_widths.meta_model import with_true_config
from comp_lib.decoder.probe import check_two_steps
from comp_lib.decoder.run import layer_arguments
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import layers_of
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.zero_shot import load_tasks
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.reports.comparison.cluster import executor
from comp_lib.reports.comparison.grid import read_rows
from comp_lib.utils import files
from comp_lib.utils.errors import PACKAGE, InputError

EMBEDDING = "model.embed_tokens.weight"


def raising(file: str) -> Callable[..., None]:
    """A function whose only line stands in `file`, and raises an AttributeError."""
    code = compile("def function(*_, **__): raise AttributeError('planted')", file, "exec")
    namespace: dict[str, Callable[..., None]] = {}
    exec(code, namespace)
    return namespace["function"]


def resolve(patch, planted, folder):
    patch.setattr(Path, "expanduser", planted)
    files.resolve("model")


def read_object(patch, planted, folder):
    patch.setattr(json, "loads", planted)
    files.read_object(folder / "config.json")


def headers_of_tensors(patch, planted, folder):
    patch.setattr(tensors, "safe_open", planted)
    tensors.TensorFiles(folder)


def one_tensor(patch, planted, folder):
    files = tensors.TensorFiles(folder)
    patch.setattr(tensors, "safe_open", planted)
    files.read(EMBEDDING, torch.float32)


def files_of_an_index(patch, planted, folder):
    (folder / tensors.SINGLE).unlink()
    (folder / tensors.INDEX_FILE).write_text('{"weight_map": {"a": "a.safetensors"}}')
    patch.setattr(Path, "name", property(planted))
    tensors.TensorFiles(folder)


def open_gguf(patch, planted, folder):
    patch.setattr(Path, "open", planted)
    GgufFile(folder / "model.gguf")


def one_tensor_of_gguf(patch, planted, folder):
    path = export_gguf(folder, folder.parent / "model.gguf")
    files = GgufTensors(GgufFile(path), load.open_model(path)[0])
    patch.setattr(gguf, "dequantize", planted)
    files.read(EMBEDDING, torch.float32)


def config_in_gguf(patch, planted, folder):
    file = GgufFile(export_gguf(folder, folder.parent / "model.gguf"))
    patch.setattr(json, "loads", planted)
    file.config_fields()


def build_config(patch, planted, folder):
    patch.setattr(load, "AutoConfig", SimpleNamespace(for_model=planted))
    load.open_model(folder)


def read_tokenizer(patch, planted, folder):
    patch.setattr(load, "AutoTokenizer", SimpleNamespace(from_pretrained=planted))
    load.open_model(folder)


def read_generation_config(patch, planted, folder):
    patch.setattr(load, "GenerationConfig", SimpleNamespace(from_pretrained=planted))
    load.open_model(folder)


def find_a_name(patch, planted, folder):
    patch.setattr(Path, "expanduser", planted)
    load.open_model("model")


def fetch(patch, planted, folder):
    patch.setattr(locate, "snapshot_download", planted)
    load.open_model("owner/name")


def load_shrunk_tensors(patch, planted, folder):
    model = build()
    patch.setattr(torch.nn.Module, "load_state_dict", planted)
    with_true_config(model)


def read_text_file(patch, planted, folder):
    patch.setattr(Path, "read_text", planted)
    load_text("calibration")


def fetch_wikitext(patch, planted, folder):
    datasets = SimpleNamespace(load_dataset=planted, __spec__="here")
    patch.setitem(sys.modules, "datasets", datasets)
    load_text("wikitext2")


def apply_chat_template(patch, planted, folder):
    tokenizer = SimpleNamespace(chat_template="", bos_token_id=0, apply_chat_template=planted)
    draw_prefixes(tokenizer, ["self:requests"], vocabulary=512, length=8)


def find_scheduler(patch, planted, folder):
    patch.setitem(sys.modules, "distributed", SimpleNamespace(Client=planted))
    with executor(scheduler="tcp://127.0.0.1:1"):
        pass


def read_comparison(patch, planted, folder):
    patch.setattr(pd, "read_csv", planted)
    read_rows(folder / "config.json")


def read_journal(patch, planted, folder):
    (folder / JOURNAL).write_text("{}")
    patch.setattr(Path, "read_text", planted)
    Journal(folder, {})


def go_on_with_a_generator(patch, planted, folder):
    streams = CarriedFiles("states-0", None, False, {}, (1, 255))
    journal = SimpleNamespace(state=RunState({}, streams=streams), work=folder)
    model = SimpleNamespace(shape=Shape.of(build()))
    sink = SimpleNamespace(journal=journal, parent=model, text_shape=(1, 8))
    patch.setattr(torch, "Generator", lambda: SimpleNamespace(set_state=planted))
    DiskSink.resume(sink)


def load_zero_shot_tasks(patch, planted, folder):
    manager = SimpleNamespace(all_tasks=["comp_cloze"], load=planted)
    patch.setitem(sys.modules, "lm_eval.tasks", SimpleNamespace(TaskManager=lambda **_: manager))
    load_tasks("comp_cloze")


def run_layer_by_itself(patch, planted, folder):
    layer = layers_of(build())[0]
    patch.setattr(LlamaDecoderLayer, "forward", planted)
    check_two_steps(layer, torch.zeros(1, 4, 32), ((), {}))


def run_decoder(patch, planted, folder):
    model = build()
    patch.setattr(LlamaModel, "forward", planted)
    layer_arguments(model, 4, "cpu", torch.float32)


def parse_plan(patch, planted, folder):
    patch.setattr(json, "loads", planted)
    Plan.from_json("{}")


def read_plan(patch, planted, folder):
    patch.setattr(Path, "read_text", planted)
    Plan.load(folder / "comp_plan.json")


def run_a_judged_model(patch, planted, folder):
    model = build()
    patch.setattr(LlamaModel, "forward", planted)
    measure_loss(model, tokens())


def write_plan(patch, planted, folder):
    plan = Plan("", 1, layers=(0,), neurons=(8,), kv_groups=(1,), ratio=0.1, removed=0.1)
    patch.setattr(Path, "write_text", planted)
    plan.save(folder / "comp_plan.json")


BLOCKS: dict[tuple[str, str], Callable[..., None]] = {
    ("calibration/texts.py", "read_text"): read_text_file,
    ("calibration/texts.py", "_load_wikitext"): fetch_wikitext,
    ("calibration/self_generated.py", "_encode_request"): apply_chat_template,
    ("reports/comparison/cluster.py", "executor"): find_scheduler,
    ("reports/comparison/grid.py", "read_rows"): read_comparison,
    ("checkpoints/from_disk/sink.py", "resume"): go_on_with_a_generator,
    ("checkpoints/from_disk/work_folder.py", "read_state"): read_journal,
    ("evaluation/loss.py", "_states"): run_a_judged_model,
    ("evaluation/zero_shot.py", "load_tasks"): load_zero_shot_tasks,
    ("decoder/probe.py", "check_two_steps"): run_layer_by_itself,
    ("decoder/run.py", "layer_arguments"): run_decoder,
    ("checkpoints/gguf/read.py", "__init__"): open_gguf,
    ("checkpoints/gguf/read.py", "_expand"): one_tensor_of_gguf,
    ("checkpoints/gguf/read.py", "_own_fields"): config_in_gguf,
    ("checkpoints/load.py", "_load_tokenizer"): read_tokenizer,
    ("checkpoints/load.py", "_generation_config"): read_generation_config,
    ("checkpoints/locate.py", "locate"): find_a_name,
    ("checkpoints/load.py", "_build_meta_model"): build_config,
    ("checkpoints/locate.py", "snapshot"): fetch,
    ("decoder/own_widths/meta_model.py", "with_true_config"): load_shrunk_tensors,
    ("hybrid_granularity/plan.py", "_from_json"): parse_plan,
    ("hybrid_granularity/plan.py", "load"): read_plan,
    ("hybrid_granularity/plan.py", "save"): write_plan,
    ("utils/files.py", "read_object"): read_object,
    ("utils/files.py", "resolve"): resolve,
    ("checkpoints/tensors.py", "_add_header"): headers_of_tensors,
    ("checkpoints/tensors.py", "_files_of_index"): files_of_an_index,
    ("checkpoints/tensors.py", "read"): one_tensor,
}
"""The file and the function that have a block -> what enters it."""

every_block = pytest.mark.parametrize(
    ("block", "enter"), BLOCKS.items(), ids=[" ".join(block) for block in BLOCKS]
)


@pytest.fixture
def folder(parent, tmp_path):
    """A model of its own for each test, which may write into it."""
    return Path(shutil.copytree(parent, tmp_path / "model"))


@every_block
def test_an_error_of_foreign_code_is_a_refusal(folder, monkeypatch, block, enter):
    with monkeypatch.context() as patch, pytest.raises(InputError, match="planted") as raised:
        enter(patch, raising("site-packages/foreign.py"), folder)
    assert functions_of_ours(raised.value)[-1] == block


@every_block
def test_a_bug_of_ours_is_no_mistake_of_a_user(folder, monkeypatch, block, enter):
    with monkeypatch.context() as patch, pytest.raises(AttributeError, match="planted"):
        enter(patch, raising(str(PACKAGE / "planted.py")), folder)


def functions_of_ours(error: Exception) -> list[tuple[str, str]]:
    """The file and the name of each function of the package that an error went through, the outermost first;
    without the one that made a refusal of it.
    """
    functions = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE) and path.name != "errors.py":
            functions.append((path.relative_to(PACKAGE).as_posix(), frame.name))
    return functions


def test_there_is_a_row_for_each_block_of_the_package():
    blocks = []
    for path in PACKAGE.rglob("*.py"):
        file = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        blocks += [(file, function) for function in functions_with_a_block(tree)]
    assert sorted(blocks) == sorted(BLOCKS)


def functions_with_a_block(node: ast.AST, function: str = "") -> list[str]:
    """The name of the innermost function around each call of `refusing` in the tree."""
    functions = []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "refusing":
        functions.append(function)
    for child in ast.iter_child_nodes(node):
        functions += functions_with_a_block(child, function)
    return functions


def test_each_block_in_a_tree_is_found():
    tree = ast.parse(
        "def outer():\n"
        "    with errors.refusing('a', 'b', 'c'), open('d'):\n"
        "        def inner():\n"
        "            stack.enter_context(refusing('a', 'b', 'c'))\n"
        "    with refusing('a', 'b', 'c'):\n"
        "        pass\n"
        "def refusing(): pass\n"
    )
    assert functions_with_a_block(tree) == ["outer", "inner", "outer"]
