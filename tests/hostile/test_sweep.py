"""Hostile cases, drawn with a fixed seed: flags, config.json, keys of GGUF, arguments, progress.json.

Each ends in a result, or in one line: with exit code 2 on the command line, as an InputError in Python. None
ends in a traceback, runs code of a stranger, or changes a file of the user's. `make hostile` draws more.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import shutil
import struct
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import typer
from hostile_cases import COUNT, ENDS, Tally, draws, end_of_command, sandbox, shown
from tools import SETTINGS, plan_of_everything
from variants import build, tokens

import comp_lib
from comp_lib.calibration.windows import Calibration
from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.from_disk.destination import SaveOptions
from comp_lib.checkpoints.from_disk.from_disk import prune_to
from comp_lib.checkpoints.from_disk.model_on_disk import ModelOnDisk
from comp_lib.checkpoints.load import load_model, open_model
from comp_lib.cli.app import COMMANDS, app
from comp_lib.evaluation.generation import continuation
from comp_lib.evaluation.loss import measure_loss
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.pruning.settings import MethodChanges
from comp_lib.utils.errors import InputError
from comp_lib.utils.hashes import hash_of_value

__all__ = ["sandbox"]  # a fixture

SHARES = {"flags": 0.25, "config.json": 0.25, "GGUF keys": 0.2, "arguments": 0.2, "progress.json": 0.1}
COUNTS = {name: math.ceil(share * COUNT) for name, share in SHARES.items()}
NUMBERS = [-1, 0, 1, 2, 3, 7, 2**31, 2**40, 2**63, 2**64, 10**30, 0.5, -0.0, 1e-320, 1e308]
NUMBERS += [math.nan, math.inf, -math.inf]
WORDS = [
    "",
    " ",
    "x",
    "32",
    "none",
    "auto",
    "a\nb",
    "\x1b[31m",
    "\u202e",
    "\U0001f600",
    "'",
    '"',
    "%s",
    "{}",
    "n" * 300,
]
PATHS = [
    ".",
    "..",
    "../..",
    "../sandbox",
    "home",
    "~",
    "~nobody/x",
    "link",
    "notes.txt",
    "notes.txt/x",
    "new",
    "new.gguf",
]
PATHS += ["no/where", "pytorch_model.bin", "parent", "parent/config.json", "m.gguf", "theirs.gguf", "\udcff"]


@pytest.fixture(scope="module")
def tallies(request):
    """The tally of each field, printed at the end as a table where `make hostile` asks for it."""
    tallies_by_name = {name: Tally(name) for name in COUNTS}
    yield tallies_by_name
    if COUNT > 1000:
        heading = " | ".join(["| field", "cases", *ENDS, ""]).strip()
        lines = [
            "",
            heading,
            "|---|" + "---:|" * (1 + len(ENDS)),
            *(tally.row() for tally in tallies_by_name.values()),
        ]
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print("\n".join(lines))


@pytest.fixture(scope="module")
def exported(parent, tmp_path_factory):
    """The bytes of a tiny GGUF file."""
    return export_gguf(parent, tmp_path_factory.mktemp("gguf") / "m.gguf", "f16").read_bytes()


# The command line

CALLS = {  # the first word of a command, and quick flags that it would take
    "inspect": "",
    "prune": "--out new --sequences 2 --length 24 --multiple 4 --preset stock --judged-on none"
    " --calibration notes.txt",
    "evaluate": "--judged-on notes.txt --window-length 24 --window-count 2",
    "generate": "--prompt Hello --tokens 2",
    "export": "--gguf new.gguf",
    # These work for long. They get the name of no model, and all else is looked at before the model is.
    "compare": "--out new --methods random --ratios 0.2 --sequences 2",
    "report": "--out new.html --ratios 0.2",
    "heal": "--parent nobody --out new --steps 1",
}
LONG_COMMANDS = ("compare", "report", "heal")
# `tests/evaluation` has the names of tasks, since lm-eval takes seconds to import; nobody answers an address.
FLAGS_LEFT_OUT = {"--tasks", "--scheduler"}
FLAG_WORDS = [
    "evaluation:nobody",
    "a+b",
    "+",
    ",",
    "0.2,,",
    "0.2,x",
    "nan,inf",
    "notes.txt+notes.txt",
    "-",
    "--",
    "a/b",
]
FLAG_WORDS += [
    "random",
    "wanda-sp",
    "paper",
    "bfloat16",
    "float8",
    "cuda",
    "cpu:9",
    "meta",
    "q4_0",
    "1e400nats",
    "nannats",
]


def a_call(draw, code):
    """The words of a call with one or two flags that may be wrong."""
    name = draw.choice(list(CALLS))
    command = typer.main.get_command(app).commands[name]
    hints = inspect.signature(next(function for function in COMMANDS if function.__name__ == name)).parameters
    arguments_typed = [name, "nobody" if name in LONG_COMMANDS else draw.choice(["parent"] * 8 + PATHS)]
    flags = CALLS[name].split()
    parameters = [parameter for parameter in command.params if parameter.opts[0] not in FLAGS_LEFT_OUT]
    for parameter in draw.sample(parameters, draw.choice([1, 1, 2])):
        if not parameter.opts[0].startswith("--"):
            continue
        flags.append(parameter.opts[0])
        if not parameter.is_flag:
            hint = str(hints[parameter.name])
            usual = PATHS if "Path" in hint else NUMBERS if "int" in hint or "float" in hint else FLAG_WORDS
            flags.append(str(draw.choice(draw.choice([usual, usual, NUMBERS, WORDS, PATHS, code]))))
    return arguments_typed + flags


def test_flags(tallies, sandbox, parent, exported):
    shutil.copytree(parent, sandbox.folder / "parent")
    (sandbox.folder / "m.gguf").write_bytes(exported)
    sandbox.keep()
    tally = tallies["flags"]
    for _, draw in draws(tally.name, COUNTS[tally.name]):
        call = a_call(draw, sandbox.code())
        tally.attempt(sandbox, shown(" ".join(call)), lambda: end_of_command(*call))  # noqa: B023
    tally.check()


# config.json, and the other files of a folder

VARIANTS = ("all-at-once", "gemma3", "rope-longrope", "qwen3")
VALUES = [
    None,
    True,
    False,
    *NUMBERS,
    *WORDS,
    [],
    [1],
    ["x"] * 3,
    [[]],
    {},
    {"x": 1},
    [math.nan],
    "llama",
    "gelu",
]
VALUES += [[[[[[[[[]]]]]]]], {"rope_type": "yarn", "factor": 0}, {"": {"": {}}}, "../parent", "/etc/hostname"]
NEW_FIELDS = {  # fields that a config may have besides
    "config.json": ["auto_map", "_attn_implementation", "attn_implementation", "quantization_config", "dtype"]
    + [
        "rope_scaling",
        "per_layer",
        "custom_pipelines",
        "trust_remote_code",
        "transformers_version",
        "pruned_heads",
    ]
    + [
        "head_dim",
        "sliding_window",
        "layer_types",
        "return_dict",
        "output_attentions",
        "use_cache",
        "id2label",
    ],
    "tokenizer_config.json": [
        "auto_map",
        "chat_template",
        "tokenizer_class",
        "added_tokens_decoder",
        "vocab_file",
    ],
    "generation_config.json": [
        "max_length",
        "temperature",
        "custom_generate",
        "cache_implementation",
        "num_beams",
    ],
}


def paths_in(value, path=()):
    """The path of each value in a value of JSON; of a list, the first item."""
    if path:
        yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else list(enumerate(value))[:1]
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def with_value(fields, path, value, *, remove=False):
    """A copy of `fields` with another value at `path`, or without it."""
    changed = copy.deepcopy(fields)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if remove:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return changed


def work_with(name):
    """Load a model and use it, as most commands do."""
    model, tokenizer = load_model(name)
    measure_loss(model, tokens(1, 12) % model.config.vocab_size)
    continuation(model, tokenizer, "Hello", 1)


def test_config(tallies, sandbox, tokenizer):
    trap = Path("modeling_trap.py").read_bytes()
    for name in VARIANTS:
        build(name).save_pretrained(name)
        tokenizer.save_pretrained(name)
        for file in ("modeling_trap.py", "custom_generate/generate.py"):
            (Path(name) / file).parent.mkdir(exist_ok=True)
            (Path(name) / file).write_bytes(trap)
    sandbox.keep()
    tally = tallies["config.json"]
    for number, draw in draws(tally.name, COUNTS[tally.name]):
        name = VARIANTS[number % len(VARIANTS)]
        file = draw.choice(["config.json"] * 4 + ["tokenizer_config.json", "generation_config.json"])
        path = Path(name) / file
        fields = json.loads(path.read_text("utf-8"))
        path_of_field = draw.choice([*paths_in(fields), *((new,) for new in NEW_FIELDS[file])])
        value = draw.choice(
            draw.choice([VALUES, NUMBERS, sandbox.code(), [{"AutoModelForCausalLM": "modeling_trap.Trap"}]])
        )
        remove = path_of_field[-1] in fields and draw.random() < 0.1
        changed = with_value(fields, path_of_field, value, remove=remove)
        before = path.read_bytes()
        path.write_text(json.dumps(changed), "utf-8")
        sandbox.content[path.absolute()] = path.read_bytes()
        case = f"{name}/{file}: {'.'.join(map(str, path_of_field))} = {'nothing' if remove else shown(value)}"
        tally.attempt(sandbox, case, lambda: work_with(name))  # noqa: B023
        path.write_bytes(before)
        sandbox.content[path.absolute()] = before
    tally.check()


# The keys of a GGUF file

UINT8, UINT32, INT32, FLOAT, BOOL, STRING, LIST, UINT64 = 0, 4, 5, 6, 7, 8, 9, 10
NEW_KEYS = [
    "llama.nobody",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "general.alignment",
    "comp_lib.config",
]
NEW_KEYS += [
    "tokenizer.chat_template",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.scores",
    "general.architecture",
]
NEW_KEYS += [
    "llama.attention.key_length",
    "llama.expert_count",
    "tokenizer.huggingface.json",
    "",
    "x" * 70_000,
]


def as_text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded


def a_value(draw, code) -> tuple[str, bytes]:
    """A value of a key: what it is, and its type and bytes."""
    text = draw.choice([*WORDS, *PATHS, *code, "llama", "gpt2", "{}", "[]", '{"model_type": "llama"}'])
    number = draw.choice([0, 1, 2, 3, 5, 48, 512, 2**31 - 1])
    decimal = draw.choice([-1.0, 0.0, 0.5, 1e-30, 1e30, math.nan, math.inf])
    options = [
        (f"text {text!r}", struct.pack("<I", STRING) + as_text(text)),
        (f"uint32 {number}", struct.pack("<II", UINT32, number)),
        (f"int32 {-number}", struct.pack("<Ii", INT32, -number)),
        (f"uint64 {number}", struct.pack("<IQ", UINT64, 2**64 - 1 - number)),
        (f"float {decimal}", struct.pack("<If", FLOAT, decimal)),
        (f"switch {number % 3}", struct.pack("<IB", BOOL, number % 3)),
        (f"uint8 {number % 256}", struct.pack("<IB", UINT8, number % 256)),
        (
            f"list of {number % 9} texts",
            struct.pack("<IIQ", LIST, STRING, number % 9) + as_text(text) * (number % 9),
        ),
        (
            f"list of {number % 9} numbers",
            struct.pack("<IIQ", LIST, UINT32, number % 9) + bytes(4) * (number % 9),
        ),
        ("an endless list", struct.pack("<IIQ", LIST, STRING, 2**60)),
        ("an endless text", struct.pack("<IQ", STRING, 2**60)),
        ("a list of lists", struct.pack("<IIQ", LIST, LIST, 1) + struct.pack("<IQ", UINT32, 0)),
        ("a type that is none", struct.pack("<II", 99, 0)),
        ("a text of other bytes", struct.pack("<IQ", STRING, 3) + b"\xff\xfe\x00"),
    ]
    return draw.choice(options)


class GgufParts:
    """A GGUF file in parts: a record for each key, the table of its tensors, and their bytes."""

    def __init__(self, file: Path) -> None:
        reader = gguf.GGUFReader(file)
        content = file.read_bytes()
        self.records: dict[str, bytes] = {}
        end = 24  # bytes of the magic, the version and two counts
        for name, value in reader.fields.items():
            if not name.startswith("GGUF."):
                end = value.offset + sum(part.nbytes for part in value.parts)
                self.records[name] = content[value.offset : end]
        last = reader.tensors[-1].field
        self.table = content[end : last.offset + sum(part.nbytes for part in last.parts)]
        self.beginning = content[:16]
        self.data = content[reader.data_offset :]

    def bytes_with(self, records: list[bytes]) -> bytes:
        """The file with other records."""
        header = self.beginning + struct.pack("<Q", len(records)) + b"".join(records) + self.table
        return header + bytes(-len(header) % gguf.GGUF_DEFAULT_ALIGNMENT) + self.data


def test_keys_of_gguf(tallies, sandbox, exported):
    file = Path("m.gguf")
    file.write_bytes(exported)
    parts = GgufParts(file)
    assert parts.bytes_with(list(parts.records.values())) == exported
    tally = tallies["GGUF keys"]
    keys = [key for key in [*parts.records, *NEW_KEYS]]
    for number, draw in draws(tally.name, COUNTS[tally.name]):
        key = keys[number % len(keys)]
        value, encoded = a_value(draw, sandbox.code())
        records = dict(parts.records)
        if draw.random() < 0.7:  # as others write it: our own config.json says everything once more
            records.pop("comp_lib.config")
        written = list(records.values())
        way = draw.choice(["instead", "instead", "instead", "twice", "without"])
        if way == "twice":
            written.append(as_text(key) + encoded)
        else:
            records.pop(key, None)
            written = list(records.values())
            if way == "instead":
                written.append(as_text(key) + encoded)
        file.write_bytes(parts.bytes_with(written))
        sandbox.keep()
        tally.attempt(sandbox, f"{key[:60]} {way}: {shown(value)}", lambda: work_with("m.gguf"))
    tally.check()


# Arguments of what `comp_lib` offers


class Thing:
    """A value that no argument takes."""


ODD_VALUES = [
    *VALUES,
    *PATHS,
    "a\0b",
    Path("a\0b"),
    Path(),
    b"x",
    bytearray(2),
    {1},
    (),
    (1, 2),
    range(3),
    Ellipsis,
]
ODD_VALUES += [1j, Decimal("0.2"), Fraction(1, 5), Decimal("nan"), -(10**400), len, Thing, Thing(), type]
ODD_VALUES += [np.float64(0.2), np.int64(3), np.array([1, 2]), np.array("x"), np.array([]), torch.tensor(0.2)]
ODD_VALUES += [
    torch.tensor([]),
    torch.zeros(2, 3),
    tokens(1, 2),
    tokens(1, 2).to("meta"),
    tokens(1, 2).bool(),
]
ODD_VALUES += [iter([]), SETTINGS, Calibration(), torch.nn.Linear(2, 2), [[1, 2], [3]], memoryview(b"x")]


def calls(tokenizer):
    """name of a function -> (the function, arguments that it takes, what else may be given)."""
    model = build()
    plan = plan_of_everything(model)
    changes = [*MethodChanges.__annotations__]
    quick = {
        "calibration": Calibration("notes.txt", 2, 24),
        "judged_on": None,
        "preset": "stock",
        "multiple": 4,
    }
    of_evaluate = {"judged_on": "notes.txt", "window_length": 24, "window_count": 2}
    return {
        "Calibration": (Calibration, {}, ["source", "sequences", "length", "seed"]),
        "Calibration.tokens": (
            lambda **given: Calibration("notes.txt", 2, 24).tokens(**given),
            {"tokenizer": tokenizer},
            ["model", "judged_on", "progress"],
        ),
        "Settings": (comp_lib.Settings, {}, [*changes, "ratio", "seed", "device"]),
        "Settings.preset": (comp_lib.Settings.preset, {}, ["name", *changes, "ratio"]),
        "Plan": (Plan, vars(plan), []),
        "Plan.load": (Plan.load, {"path": "notes.txt"}, []),
        "Plan.from_json": (Plan.from_json, {"text": plan.to_json()}, []),
        "load_text": (comp_lib.load_text, {"name_or_path": "notes.txt"}, []),
        "load_model": (comp_lib.load_model, {"name": "parent"}, ["dtype", "device"]),
        "evaluate": (
            comp_lib.evaluate,
            {"model": model, "tokenizer": tokenizer} | of_evaluate,
            ["parent", "progress"],
        ),
        "prune": (
            comp_lib.prune,
            {"model": model, "ids": tokens(2, 12), "settings": SETTINGS},
            ["plan", "model_name", "progress", "inplace"],
        ),
        "prune_model": (
            comp_lib.prune_model,
            {"name": "parent", "out": "new"} | quick,
            [*changes, "ratio", "at_most", "device", "dtype", "overwrite", "progress"],
        ),
    }


def discard(result):
    """A result is a result, whatever it is."""


def test_arguments(tallies, sandbox, parent, tokenizer):
    shutil.copytree(parent, "parent")
    sandbox.keep()
    tally = tallies["arguments"]
    rows = []
    for name, (function, given, optional) in calls(tokenizer).items():
        rows += [(name, function, given, argument) for argument in [*given, *optional]]
    for number, draw in draws(tally.name, COUNTS[tally.name]):
        name, function, given, argument = rows[number % len(rows)]
        value = draw.choice([*ODD_VALUES, *sandbox.code()])
        if argument == "progress" and callable(value):
            value = Thing()  # what fails in a function of the caller's is the caller's
        arguments = given | {argument: value}
        if argument == "inplace":
            arguments["model"] = build()
        tally.attempt(sandbox, f"{name}({argument}={shown(value)})", lambda: discard(function(**arguments)))  # noqa: B023
    tally.check()


# progress.json of a run that was cut off


class Killed(BaseException):
    """Stands for kill -9."""


def test_progress(tallies, sandbox, tokenizer):
    settings = comp_lib.Settings(ratio=0.3, drop_layers=0, multiple=4, widths="uniform", aim="dense")
    build().save_pretrained("parent")
    tokenizer.save_pretrained("parent")
    meta_model, files, _ = open_model("parent", "float32")
    model = ModelOnDisk(meta_model, files)

    def prune(out, progress=lambda *arguments: None):
        options = SaveOptions(windows=tokens(1, 12, seed=5), name="parent")
        prune_to(out, model, tokenizer, tokens(2, 12), settings, options=options, progress=progress)

    def killed_after_two(stage, count, total, report=None):
        if (stage, count) == ("pruning", 2):
            raise Killed

    with pytest.raises(Killed):
        prune(Path("new"), killed_after_two)
    work = Path("new.partial")
    journal = json.loads((work / "progress.json").read_text("utf-8"))
    work.rename("stopped")
    sandbox.keep()
    paths_of_fields = list(paths_in(journal))
    edits = []
    for number, draw in draws("progress.json", COUNTS["progress.json"]):
        path_of_field = paths_of_fields[number * 7 % len(paths_of_fields)]
        value = draw.choice(draw.choice([VALUES, NUMBERS, PATHS, sandbox.code()]))
        changed = with_value(journal, path_of_field, value, remove=draw.random() < 0.1)
        signed = path_of_field != ("checksum",) and draw.random() < 0.8
        end = "with its checksum" if signed else "without its checksum"
        case = f"{'.'.join(map(str, path_of_field))} = {shown(value)}, {end}"
        edits.append((case, signed_again(changed) if signed else changed))
    tally = tallies["progress.json"]
    for case, changed in edits:
        shutil.copytree("stopped", work)
        (work / "progress.json").write_text(json.dumps(changed), "utf-8")
        tally.attempt(sandbox, case, lambda: prune(Path("new")))
    tally.check()
    for value in (2**64, -1), (1,), ():  # the state of a generator, as a sweep changed it once
        changed = with_value(journal, ("streams", "generator"), value)
        shutil.copytree("stopped", work)
        (work / "progress.json").write_text(json.dumps(signed_again(changed)), "utf-8")
        with pytest.raises(InputError, match="generator.*delete that folder"):
            prune(Path("new"))
        shutil.rmtree(work)


def signed_again(journal):
    """The journal with the checksum that its fields have now; a field that has none keeps its old one."""
    fields = {name: value for name, value in journal.items() if name != "checksum"}
    try:
        return {"checksum": hash_of_value(fields)} | fields
    except ValueError:  # NaN and half a character have no hash
        return journal


# The sweep itself


def test_what_goes_wrong_fails(sandbox):
    """A traceback, a lost file and code that runs are seen, each by its case, and the place is as it was."""

    def careless():
        Path("notes.txt").unlink()
        Path("home/letter.txt").write_text("other")
        Path("new").mkdir()

    wrong_acts = {
        "tracebacks": lambda: {}["x"],
        "losses": careless,
        "code run": lambda: exec(sandbox.code()[0]),
    }
    before = sandbox.look()
    for end, act in wrong_acts.items():
        tally = Tally("a field")
        tally.attempt(sandbox, "a case", act)
        assert tally.ends[end] == 1
        assert tally.wrong[0].startswith(f"{end}: a field, a case")
        with pytest.raises(AssertionError, match="1 went wrong"):
            tally.check()
        assert sandbox.look() == before


def test_a_traceback_of_a_command_is_seen(sandbox, monkeypatch):
    monkeypatch.setattr("comp_lib.checkpoints.load.load_model", lambda *arguments: {}["x"])
    assert "KeyError: 'x'" in end_of_command("inspect", "parent")
