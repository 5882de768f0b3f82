"""The least work of a run, against what torch counts and against sums by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig
from variants import build, tokens

from comp_lib.calibration.stream import attention_step, embed, mlp_step, rotary
from comp_lib.prune import make_plan, prune
from comp_lib.scale import prune_to as prune_to_module
from comp_lib.scale.limit import Machine, Run, Work, best_time, least_seconds, product_rates
from comp_lib.scale.model_on_disk import Streamed
from comp_lib.scale.prune_to import Saving, prune_to
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.statistics.gram import Gram
from comp_lib.system.clock import PHASES

SETTINGS = Settings(ratio=0.2, multiple=4)


def run_of(model, ids, settings=SETTINGS, **changes):
    plan = make_plan(model, ids, settings).plan
    return replace(Run(Shape.of(model), plan, settings, *ids.shape, stored=1000, saved=4), **changes)


def counted(work):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["gqa", "qwen3"])
def test_a_pass_is_what_torch_counts(name):
    model, ids = build(name), tokens(4, 16)
    run, layer = run_of(model, ids), model.model.layers[0]
    hidden, rope = embed(model, ids), rotary(model, 16, "cpu", torch.float32)
    neurons, groups = run.shape.neurons[0], run.shape.kv_groups[0]
    extra = sum(p.numel() for n, p in layer.self_attn.named_parameters() if "norm" in n or "bias" in n)
    assert extra < 100  # else the counts below would not agree so well
    assert run._pass("MLP", neurons).single == counted(lambda: mlp_step(layer, hidden))
    queries = groups * run.shape.group_heads * run.shape.head_dim
    scores = 2.0 * ids.numel() * 16 * queries  # which torch does not count on a CPU
    assert run._pass("attention", groups).single - scores == counted(partial(attention_step, layer, hidden, rope))


def test_half_of_a_symmetric_product_is_enough():
    x = torch.randn(64, 48)
    run = run_of(build("gqa"), tokens(8, 64))
    least = run._dense_layer(48, 32)["Gram"].single
    assert 2 * least == counted(lambda: Gram.zeros(48).add(x)) * run.tokens / 64


@pytest.mark.parametrize("aim", ["self", "dense"])
@pytest.mark.parametrize("size", [(2, 8), (8, 32)], ids=["few tokens", "many"])
def test_no_run_multiplies_less(aim, size):
    model, ids = build("gqa"), tokens(*size)
    settings = replace(SETTINGS, aim=aim, layers=1)
    work = run_of(model, ids, settings).work()
    least = sum(one.single + one.double for one in work.values())
    solves = work["selection"].double + work["solve"].double  # factors, inverses and solves are not in torch's count
    assert least - solves < counted(lambda: prune(model, ids, settings))


def test_the_phases_of_a_plan_by_hand():
    model, ids = build("gqa"), tokens(8, 32)
    settings = replace(SETTINGS, layers=1, aim="dense")
    run = run_of(model, ids, settings, state=4)
    first, *others = run.plan.layers
    work, whole = run.work(), run.shape.neurons[0]
    assert run.shape.layers == len(run.plan.layers) + 1
    dense = run.shape.layers * run._pass("MLP", whole).single
    narrow = sum(run._pass("MLP", width).single for width in run.plan.neurons)
    watched = len(run.plan.layers) * run._pass("MLP", whole).single
    assert work["MLP"].single == dense + narrow + watched and first in run.plan.layers and others
    states = 2 * ids.numel() * run.shape.hidden * 4 * len(run.plan.layers)
    after = run.shape.total - run.plan.removed * run.shape.decoder
    assert work["read"] == Work(read=1000) and work["write"].written == pytest.approx(4 * after + states)


def test_seconds_are_work_by_rates():
    machine = Machine(single=10.0, double=5.0, read=2.0, written=4.0)
    assert machine.seconds(Work(single=20.0, double=20.0, read=8.0, written=2.0)) == 2.0 + 4.0 + 4.0 + 0.5
    model = build("gqa")
    fast = least_seconds(run_of(model, tokens(8, 32)), machine)
    slow = least_seconds(run_of(model, tokens(8, 32)), replace(machine, single=5.0))
    assert slow["MLP"] == 2 * fast["MLP"] and slow["read"] == fast["read"]


def test_a_model_in_half_precision_passes_its_text_in_it():
    """Sums and solves do not."""
    single = run_of(build("gqa"), tokens(8, 32))
    half = replace(single, state=2)
    for phase in ("attention", "MLP"):
        assert half.work()[phase] == Work(half=single.work()[phase].single)
    assert half.work()["selection"] == single.work()["selection"]
    machine = Machine(single=10.0, double=5.0, read=2.0, written=4.0, half=20.0)
    assert machine.seconds(Work(half=40.0, single=10.0)) == 3.0
    with pytest.raises(ValueError, match="half precision"):
        replace(machine, half=None).seconds(Work(half=1.0))


def test_a_machine_is_asked_in_the_precision_of_the_model(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(1000))
    asked = Shape.of(build("gqa")), [tmp_path / "weights"], tmp_path, "cpu"
    assert Machine.measured(*asked).half is None
    assert (Machine.measured(*asked, torch.bfloat16).half or 0.0) > 0.0


def test_a_card_is_waited_for(monkeypatch):
    """It answers before it has done what it was asked to."""
    asked = []
    monkeypatch.setattr("torch.cuda.synchronize", asked.append)
    assert best_time(lambda: asked.append("work"), times=2, device="cuda:1") > 0.0
    assert asked == ["cuda:1", "work", "cuda:1"] * 2
    asked.clear()
    assert min(product_rates(Shape.of(build("gqa")))) > 0.0 and not asked


class Nothing:
    def save_pretrained(self, folder):
        pass


def test_a_report_says_where_the_time_went_and_the_least(tmp_path):
    build("gqa").save_pretrained(tmp_path / "parent")
    model = Streamed(tmp_path / "parent", AutoConfig.from_pretrained(tmp_path / "parent"))
    saving = Saving(windows=tokens(2, 16, seed=1))
    settings = replace(SETTINGS, ratio=0.5, layers=1)  # which is to be planned
    report = prune_to(tmp_path / "out", model, Nothing(), tokens(8, 32), settings, saving=saving).report
    assert set(report.phases) == set(PHASES) and 0.0 < sum(report.phases.values()) <= report.seconds
    assert set(report.least) == set(PHASES) - {"planning", "evaluation"} and min(report.least.values()) > 0.0
    assert not list((tmp_path / "out").glob("tmp*"))
    memory = prune(build("gqa"), tokens(8, 32), settings).report
    assert set(memory.phases) == {"planning", "attention", "MLP", "Gram", "selection", "solve"}


def test_the_phases_are_part_of_the_seconds_that_are_reported(tmp_path, monkeypatch):
    """Judging the dense model and the result is a phase too."""
    late, real, judged = [0.0], time.perf_counter, prune_to_module.losses
    monkeypatch.setattr(time, "perf_counter", lambda: real() + late[0])

    def slow(*arguments):
        late[0] += 1000.0
        return judged(*arguments)

    monkeypatch.setattr(prune_to_module, "losses", slow)
    build("gqa").save_pretrained(tmp_path / "parent")
    model = Streamed(tmp_path / "parent", AutoConfig.from_pretrained(tmp_path / "parent"))
    saving = Saving(windows=tokens(2, 16, seed=1))
    report = prune_to(tmp_path / "out", model, Nothing(), tokens(8, 32), SETTINGS, saving=saving).report
    assert 2000.0 < report.phases["evaluation"] < sum(report.phases.values()) < report.seconds
    assert late == [2000.0]
