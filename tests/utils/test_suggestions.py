"""A typo in any word that comes from a list: the refusal offers the right one, in Python and for commands."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import typer
from command import refused, run
from typer.testing import CliRunner
from variants import build

import comp_lib
from comp_lib.calibration.mixtures import SOURCES
from comp_lib.calibration.texts import KINDS, TEXTS, load_text
from comp_lib.calibration.windows import Calibration, calibration_tokens
from comp_lib.checkpoints.from_disk.prune_model import prune_model
from comp_lib.checkpoints.gguf.write import TYPES, checked_new_gguf_file
from comp_lib.checkpoints.load import DTYPES, load_model
from comp_lib.checkpoints.wheels import WHEELS
from comp_lib.cli.app import app
from comp_lib.importance.names import LAYER_METRIC_NAMES
from comp_lib.importance.neuron_metrics import METRICS
from comp_lib.pruning.comp import prune
from comp_lib.pruning.methods import METHODS, RECOVERY_NAMES
from comp_lib.pruning.settings import AIMS, PRESETS, WIDTHS, Settings
from comp_lib.reports.checkup.columns import draw
from comp_lib.reports.checkup.cost_frame import settings_for
from comp_lib.utils.arguments import suggestion
from comp_lib.utils.errors import InputError
from comp_lib.utils.machine import available_device
from course.figures import layer_importance

LISTS = {  # what a word names -> all words, and a call that takes one
    "preset": (PRESETS, Settings.preset),
    "method": (METHODS, lambda word: Settings(method=word)),
    "metric": (METRICS, lambda word: Settings(method=word)),
    "recovery": (RECOVERY_NAMES, lambda word: Settings(recovery=word)),
    "aim": (AIMS, lambda word: Settings(aim=word)),
    "widths": (WIDTHS, lambda word: Settings(widths=word)),
    "layer metric": (LAYER_METRIC_NAMES, lambda word: Settings(layer_metric=word)),
    "metric of a figure": (layer_importance.METRICS, lambda word: layer_importance.values_of(None, word)),
    "dtype": (DTYPES, lambda word: load_model("smollm2-135m", word)),
    "device": (("cpu", "auto"), available_device),
    "model": (WHEELS, load_model),
    "type of a GGUF file": (TYPES, lambda word: checked_new_gguf_file("m.gguf", word)),
    "text": (TEXTS, load_text),
    "calibration": (SOURCES, lambda word: calibration_tokens(word, None)),
    "calibration in a mixture": (SOURCES, lambda word: calibration_tokens(f"shipped+{word}", None)),
    "calibration first in a mixture": (
        SOURCES,
        lambda word: prune_model("m", "out", calibration=f"{word}+self"),
    ),
    "kind of text": (KINDS, lambda word: draw(None, ["prose", word])),
    "way to prune": ((*PRESETS, *METHODS), lambda word: settings_for(build(), word, 0.2)),
}


def typos(word):
    """The word without a letter, and with two letters turned, where its first letter stays."""
    middle = len(word) // 2
    turned = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return {word[:middle] + word[middle + 1 :], turned} - {word}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Where no file has the name of a typo."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", LISTS)
def test_a_typo_in_a_word_of_a_list_offers_the_word(name):
    names, call = LISTS[name]
    for word in names:
        for typo in typos(word) - {*names}:
            if len(word) < 4 or typo.startswith("wikitext2"):  # of `wikitext2:SPLIT` any split may be
                continue
            with pytest.raises(InputError) as error:
                call(typo)
            offered = error.value.hint
            assert offered.startswith("did you mean "), (typo, offered)
            assert repr(word) in offered, (typo, offered)
            assert "\n" not in str(error.value)


def test_what_is_near_no_word_gets_all_of_them_in_their_order():
    assert suggestion("xyz", ["one", "two"]) == "choose one of one, two"
    assert suggestion("xyz", ["one", "two"], otherwise="check the spelling") == "check the spelling"
    assert suggestion("xyz", []) == "choose one of "


def test_only_the_nearest_is_offered_and_equally_near_ones_in_the_order_of_the_list():
    assert suggestion("stok", ["best", "stock"]) == "did you mean 'stock'?"
    assert suggestion("STOCK", ["best", "stock"]) == "did you mean 'stock'?"
    assert suggestion("cart", ["cars", "card"]) == "did you mean 'cars' or 'card'?"
    assert suggestion("cart", ["card", "cars"]) == "did you mean 'card' or 'cars'?"
    assert suggestion("a" * 10**6, ["stock"]) == "choose one of stock"


def test_an_unknown_keyword_is_left_to_python_and_comes_before_any_work(tmp_path):
    for call in (
        lambda: Settings(widht="uniform"),
        lambda: replace(Settings(), widht="uniform"),
        lambda: replace(Settings().completed(), widht="uniform"),
        lambda: prune_model("smollm2-135m", tmp_path / "out", widht="uniform"),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
            call()
    assert list(tmp_path.iterdir()) == []


# --- commands -----------------------------------------------------------------------------------------------

CALLS = [  # what is typed, the word that the line offers
    ("prune smollm2-135m --out out --preset tailord", "'tailored'"),
    ("prune smollm2-135m --out out --method wanda-ps", "'wanda-sp'"),
    ("prune smollm2-135m --out out --calibration shiped", "'shipped'"),
    ("prune smollm2-135m --out out --calibration shipped+writen", "'written'"),
    ("prune smollm2-135m --out out --calibration selff+general", "'self'"),
    ("prune smollm2-135m --out out --dtype bfloat61", "'bfloat16'"),
    ("prune smollm2-135m --out out --device cup", "'cpu'"),
    ("prune smolm2-135m --out out", "'smollm2-135m'"),
    ("evaluate gema3-270m", "'gemma3-270m'"),
    ("evaluate smollm2-135m --judged-on evaluation:cod", "'evaluation:code'"),
    ("export smollm2-135m --gguf m.gguf --type q8_1", "'q8_0' or 'q4_1'"),
    ("prune smollm2-135m --ouut out", "'--out'"),
    ("prnue smollm2-135m", "'prune'"),
    ("evaluate smollm2-135m --window-cont 3", "'--window-count'"),
]


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        ("prune", "comp-lib prune --help has it: Missing argument"),
        ("prune m", "prune --help has it: Missing option '--out'"),
        ("prune m --out", "prune --help has it: Option '--out' requires an argument"),
        ("prune m n --out x", "prune --help has it: Got unexpected extra argument(s) (n)"),
        ("prune m --out x --drop-layers many", "prune --help has it: Invalid value for '--drop-layers'"),
        ("prune m --out x --seed 1.5", "prune --help has it: Invalid value for '--seed'"),
        ("--quiet prune", "a flag of comp-lib, got '--quiet': comp-lib --help lists them"),
        ("42", "a command of comp-lib, got '42': choose one of demo, inspect,"),
    ],
)
def test_a_call_that_typer_refuses_is_one_line(call, phrase):
    result = CliRunner().invoke(app, call.split(), prog_name="comp-lib")
    refused(result, [phrase])
    assert result.stdout == ""


def test_without_a_word_there_is_the_help():
    result = run()
    assert "Usage: " in result.output
    assert "comp-lib: expected" not in result.output


@pytest.mark.parametrize(("call", "word"), CALLS, ids=[call for call, _ in CALLS])
def test_a_typo_in_a_command_offers_the_word(call, word):
    refused(run(*call.split()), [f"did you mean {word}"])


def test_a_typo_in_any_flag_offers_the_flag():
    for name, command in typer.main.get_command(app).commands.items():
        for parameter in command.params:
            flag = parameter.opts[0]
            for typo in typos(flag.removeprefix("--")) if flag.startswith("--") else ():
                refused(run(name, f"--{typo}"), [f"got '--{typo}': did you mean {flag!r}"])


def test_a_typo_in_a_task_offers_the_task():
    pytest.importorskip("lm_eval")
    from comp_lib.evaluation.zero_shot import load_tasks

    for text, word in (("comp_gramar", "'comp_grammar'"), ("comp_cloze,comp_sens", "'comp_sense'")):
        with pytest.raises(InputError, match=f"did you mean {word}"):
            load_tasks(text)


# --- help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        *(Settings, Calibration, prune, prune_model, load_model, comp_lib.evaluate, comp_lib.heal),
        *(comp_lib.heal_folder, comp_lib.export_gguf, comp_lib.export_padded),
    ],
)
def test_help_says_what_each_argument_is(function):
    text = inspect.getdoc(function)
    arguments = {*inspect.signature(function).parameters} - {"model", "tokenizer", "ids", "out"}
    missing = [name for name in arguments if f"\n    {name}: " not in text]
    assert not missing
