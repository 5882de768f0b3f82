"""Settings, plans and tokens that are refused before any work."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tools import SETTINGS, config_and_hash, plan_of_everything
from variants import build, tokens

from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": "0.2"}, "expected ratio to be a number, got '0.2'"),
        ({"ratio": 0.0}, "ratio to be between 0 and 1 .*got 0.0"),
        ({"ratio": 1.5}, "ratio to be between 0 and 1 .*got 1.5"),
        ({"ratio": math.nan}, "ratio to be between 0 and 1 .*got nan"),
        ({"method": "cmop"}, "'cmop'.*did you mean 'comp'"),
        ({"method": "wanda"}, "'wanda'.*did you mean 'wanda-sp'"),
        ({"method": 3}, "expected method to be one of"),
        ({"recovery": 3}, "expected recovery to be one of"),
        ({"recovery": "least-square"}, "recovery.*'least-square'.*did you mean 'least-squares'"),
        ({"aim": "other"}, "aim to be one of self, dense, auto, got 'other'"),
        ({"widths": "perlayer"}, "widths.*'perlayer'.*did you mean 'per-layer'"),
        ({"layer_metric": "los"}, "layer_metric.*'los'.*did you mean 'loss'"),
        ({"drop_layers": "some"}, "number or 'auto', or a share below 1, got 'some'"),
        ({"drop_layers": 1.5}, "a share below 1, got 1.5"),
        ({"drop_layers": -1}, "a share below 1, got -1"),
        ({"drop_layers": math.nan}, "a share below 1, got nan"),
        ({"drop_layers": math.inf}, "a share below 1, got inf"),
        ({"drop_layers": 10**400}, "expected drop_layers"),
        ({"drop_layers": None}, "expected drop_layers"),
        ({"kv_groups": "2"}, "expected kv_groups to be a whole number or None, got '2'"),
        ({"seed": 2**70}, "seed to be a whole number"),
        ({"seed": 1.0}, "seed to be a whole number from 0, got 1.0"),
        ({"multiple": 8.5}, "multiple to be a whole number or None, got 8.5"),
        ({"kv_groups": 0}, "kv_groups as a whole number above 0, got 0"),
        ({"multiple": 0}, "multiple as a whole number above 0, got 0"),
        ({"ridge": 0.0}, "ridge to be a number above 0, .*or 'auto', got 0"),
        ({"ridge": -1.0}, "ridge to be a number above 0, .*or 'auto', got -1"),
        ({"ridge": 1e7}, "ridge to be a number above 0, at most 1e.06"),
        ({"ridge": "some"}, "ridge to be a number above 0, .*or 'auto', got 'some'"),
        ({"ridge": math.nan}, "ridge to be a number above 0, .*or 'auto', got nan"),
        ({"ridge": None}, "expected ridge to be a number"),
    ],
)
def test_settings_are_checked_by_name(change, message):
    with pytest.raises(InputError, match=message) as error:
        Settings(**change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"settings": {"ratio": 0.99}}, "at most 0.*got 0.99"),
        ({"settings": {"drop_layers": 3}}, "to leave some of the 3 layers, got 3, so 3 layers"),
        ({"settings": {"kv_groups": 3}}, "1 to 2 KV groups.*got 3"),
        (
            {"settings": {"multiple": 49}},
            "at most 48, the neurons of the widest layer, got 49: leave multiple",
        ),
        ({"settings": {"multiple": 49, "method": "slimgpt"}}, "at most 48, the neurons of the widest"),
        ({"settings": {"ratio": 0.97, "drop_layers": 1}}, "at most 0.*got 0.97"),
        ({"plan": {"parent_layers": 4}}, "plan for 3 layers, got one for 4"),
        ({"plan": {"neurons": (480, 48, 48)}}, "got 480"),
        ({"plan": {"kv_groups": (2, 3, 2)}}, "got 3"),
        ({"plan": {"neurons": (48, 48)}}, "3 entries in neurons, got 2"),
        ({"plan": {"neurons": (48, 0, 48)}}, "a neuron and a KV group in each layer"),
        (
            {"plan": {"kept_neurons": ((*range(47), 10**6),) * 3}},
            "at most 48 neurons in layer 0, got 1000001",
        ),
        ({"plan": {"kept_groups": ((0, 10**6),) * 3}}, "at most 2 KV groups in layer 0, got 1000001"),
        ({"ids": tokens()[0]}, r"tokens, a tensor \(S, L\) .*, got shape \(24,\)"),
        ({"ids": tokens()[:0]}, r"tokens, a tensor \(S, L\) .*, got shape \(0, 24\)"),
        ({"ids": tokens()[:, :0]}, r"with L of at least 2, got shape \(4, 0\)"),
        ({"ids": tokens(2, 200)}, "sequences of at most 128 tokens, the model's, got 200"),
        ({"ids": tokens() + 10**6}, "tokens from 0 to 511, got 1.0"),
        ({"ids": tokens() - 10**6}, "tokens from 0 to 511, got -9"),
        ({"ids": tokens().float()}, "tokens from 0 to 511, got torch.float32"),
        ({"ids": tokens() > 3}, "tokens from 0 to 511, got torch.bool"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_any_work(wrong, message):
    parent = build()
    before = config_and_hash(parent)
    settings = replace(SETTINGS, **wrong.get("settings", {}))
    options = {"inplace": True, "progress": lambda *_: pytest.fail("work")}
    with pytest.raises(InputError, match=message):
        if "plan" in wrong:
            options["plan"] = plan_of_everything(parent, **wrong["plan"])
        prune(parent, wrong.get("ids", tokens()), settings, **options)
    assert config_and_hash(parent) == before


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"kv_groups": 1}, r"got 1: leave kv_groups \(--kv-groups\) out"),
        ({"method": "flap", "recovery": "bias"}, "got the method flap, .*: choose another method"),
    ],
)
def test_groups_that_share_a_norm_are_refused_by_name(changes, end):
    with pytest.raises(InputError, match=f"expected all KV groups of olmo2 to stay, .*, {end}$"):
        prune(build("olmo2"), tokens(), replace(SETTINGS, **changes))


@pytest.mark.parametrize(("device", "phrase"), [("cuda", "with float64 .*'cuda'"), ("mps", "'mps'")])
def test_a_device_on_which_nothing_can_be_solved_is_refused(device, phrase, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    settings = replace(SETTINGS, device=device)  # which can be made anywhere
    parent = build()
    with pytest.raises(InputError, match=phrase):
        prune(parent, tokens(), settings, progress=lambda *_: pytest.fail("work"))


def test_the_device_auto_is_the_best_one_that_can_solve(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    pruned = prune(build(), tokens(), replace(SETTINGS, device="auto"))
    assert pruned.report.settings.device == "cpu"
