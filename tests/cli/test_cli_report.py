"""`comp-lib report`: what can be refused is, before work; page and notebook come, also after a failure."""

from __future__ import annotations

import nbformat
import pytest
from command import FEW, refused, run

from comp_lib.analysis import report_page
from comp_lib.analysis.checkup import Checkup
from comp_lib.analysis.parameters import Parameters
from comp_lib.analysis.report_page import MARK, Executed, Failure, check_models
from comp_lib.errors import InputError

pytest.importorskip("papermill", reason="no papermill: pip install 'comp-lib[report]'")


@pytest.fixture
def never(monkeypatch):
    def work(*_):
        raise AssertionError("work began")

    monkeypatch.setattr(report_page, "execute", work)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kinds", "poems"], ["kinds of text among", "poems"]),
        (["--ratios", "a,b"], ["--ratios as numbers between commas", "a,b"]),
        (["--ratios", "0.5,0.1"], ["rising ratios"]),
        (["--minutes", "0"], ["minutes above 0"]),
        (["--peer", "nobody"], ["peer among", "nobody"]),
        (["--device", "quantum"], ["available device", "quantum"]),
        (["--against", "no-such-model"], ["no-such-model"]),
        (["--seed", "-1"], ["--seed"]),
    ],
)
def test_bad_options_are_refused(parent, tmp_path, never, options, words):
    refused(run("report", parent, "--out", tmp_path / "page.html", *options), words)
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_read_is_refused(tmp_path, never):
    refused(run("report", tmp_path / "nobody", "--out", tmp_path / "page.html"), ["nobody"])
    refused(run("report", tmp_path, "--out", tmp_path / "page.html"), ["config.json"])


def test_models_that_are_no_relatives_are_refused(parent, tmp_path, never, tiny_llama, tokenizer):
    tiny_llama(hidden_size=64).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    done = run("report", parent, "--out", tmp_path / "page.html", "--against", tmp_path / "other")
    refused(done, ["relatives", "64"])


@pytest.mark.parametrize("name", ["page.html", "page.ipynb"])
def test_a_file_of_somebody_else_is_not_overwritten(parent, tmp_path, never, name):
    (tmp_path / name).write_text("{}", "utf-8")
    refused(run("report", parent, "--out", tmp_path / "page.html"), ["--overwrite"])
    assert (tmp_path / name).read_text("utf-8") == "{}"


def test_another_ending_is_refused(parent, tmp_path, never):
    refused(run("report", parent, "--out", tmp_path / "page.pdf"), [".html"])


def test_page_and_notebook_are_written_also_after_a_failure(parent, tmp_path, monkeypatch):
    told = []

    def fake(values, progress):
        told.append(values)
        notebook = nbformat.v4.new_notebook()
        parameters = {"model": str(parent), "against": ""}
        notebook.metadata["comp_lib"] = {"parameters": parameters}
        return Executed(notebook, Failure("Neurons", "MemoryError") if len(told) > 1 else None)

    monkeypatch.setattr(report_page, "execute", fake)
    out = tmp_path / "page.html"
    done = run("report", parent, "--out", out, "--kinds", "code, prose", "--peer", "none")
    assert done.exit_code == 0, done.output
    assert told[0]["kinds"] == ("code", "prose") and told[0]["peer"] == ""
    assert out.read_text("utf-8").startswith(MARK)
    done = run("report", parent, "--out", out)  # ours may be replaced
    assert done.exit_code == 1
    assert "stopped at 'Neurons'" in done.stderr and "goes on from there" in done.stderr
    assert "It stopped at: Neurons" in out.read_text("utf-8")
    assert (tmp_path / "page.ipynb").is_file()


def test_a_model_that_lost_layers_is_compared_with_its_parent(parent, tmp_path):
    done = run("prune", parent, "--out", tmp_path / "small", "--ratio", "0.2", "--layers", "1", *FEW)
    assert done.exit_code == 0, done.output
    check_models(Parameters.of({"model": str(tmp_path / "small"), "against": str(parent)}))
    (tmp_path / "small" / "comp_plan.json").unlink()
    with pytest.raises(InputError, match="layers, got"):
        check_models(Parameters.of({"model": str(tmp_path / "small"), "against": str(parent)}))


def test_a_model_without_some_attention_is_refused_by_name(parent, tmp_path):
    done = run("prune", parent, "--out", tmp_path / "small", "--ratio", "0.1", "--attentions", "1", *FEW)
    assert done.exit_code == 0, done.output
    with pytest.raises(InputError, match="prune the parent anew"):
        Checkup.of(model=str(tmp_path / "small"))
    refused(run("plan", tmp_path / "small", "--budget", "latency=0.7", "--multiple", "4"), ["prune the parent anew"])
