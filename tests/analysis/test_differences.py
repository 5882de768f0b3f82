"""Two checkpoints side by side: unchanged, changed in one place, and pruned against its parent."""

from __future__ import annotations

import pytest
import torch

from comp_lib.analysis import columns, draw
from comp_lib.analysis.differences import PROMPT, changed_kinds, changed_layers, changed_prompts, match, paired
from comp_lib.calibration.text import opening
from comp_lib.errors import InputError
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.loss import compare, evaluation_tokens
from comp_lib.prune import prune
from comp_lib.settings import Settings


@pytest.fixture(scope="module")
def sample(tokenizer):
    return draw(tokenizer, ("prose", "code"), windows=2, length=32)


@pytest.fixture(scope="module")
def windows(tokenizer):
    text = "The water rises in the river. It has rained for three days, and nobody knows when it will stop. " * 20
    return {kind: evaluation_tokens(tokenizer, text[place:], 24, 3) for place, kind in enumerate(("one", "two"))}


def test_a_model_does_not_differ_from_itself(tiny_llama, sample, windows):
    model = tiny_llama()
    frame = changed_layers(model, tiny_llama(), sample)
    assert list(frame.columns) == list(columns.COLUMNS["changed_layers"])
    assert frame.stream.abs().max() < 1e-6 and frame.weights.max() == 0 and frame.died.sum() == 0
    judged = judge(tiny_llama(), windows, model, tuple(windows))
    kinds = changed_kinds(model, judged)
    assert list(kinds.columns) == list(columns.COLUMNS["changed_kinds"])
    assert kinds.kl.abs().max() < 1e-6 and (kinds.agreement == 1).all()


@torch.no_grad()
def test_what_was_changed_is_where_it_was_changed(tiny_llama, sample):
    model, other = tiny_llama(), tiny_llama()
    other.model.layers[1].mlp.down_proj.weight[:, [3, 4]] = 0.0  # two neurons die
    frame = changed_layers(model, other, sample).set_index("layer")
    assert frame.stream[0] < 1e-6 < frame.stream[1]
    assert (frame.weights > 0).tolist() == [False, True, False]
    assert frame.died.tolist() == [0, 2, 0]
    assert ((frame.low <= frame.stream) & (frame.stream <= frame.high)).all()
    assert 0 < frame.died_energy[1] < 1


def test_a_pruned_model_against_its_parent(tiny_llama, sample, windows):
    model = tiny_llama()
    done = prune(model, sample.ids, Settings(ratio=0.4, layers=1, multiple=8))
    frame = changed_layers(model, done.model, sample, done.plan).set_index("layer")
    [gone] = done.plan.dropped
    assert frame.other_layer.isna().tolist() == [layer == gone for layer in range(3)]
    assert frame.died_energy[gone] == 1.0
    for place, layer in enumerate(done.plan.layers):
        assert frame.died[layer] >= 48 - done.plan.neurons[place]
    judged = judge(done.model, windows, model, tuple(windows))
    [one] = changed_kinds(model, judged).loc[(slice(None), slice(None), "one"), :].itertuples()
    expected = compare(done.model, model, windows["one"])
    assert (one.loss, one.other_loss, one.kl) == pytest.approx((expected.dense_loss, expected.loss, expected.kl))


def test_a_wider_second_model_has_no_dead_neurons(tiny_llama, sample):
    frame = changed_layers(tiny_llama(intermediate_size=32), tiny_llama(), sample)
    assert frame.died.tolist() == [0, 0, 0] and frame.died_energy.isna().all()


def test_a_prompt_begins_once(tiny_llama, tokenizer):
    ids = torch.cat([opening(tokenizer), torch.arange(300, 323)])[None]
    model, other = tiny_llama(), tiny_llama(seed=1)
    judged = judge(other, {"one": ids}, model, ("one",))
    [prompt] = changed_prompts((model, other), tokenizer, {"one": ids}, judged, most=1).prompt
    assert "<s>" not in prompt and prompt == tokenizer.decode(ids[0, 1 : min(PROMPT, ids.shape[1] // 2)])


def test_the_prompts_are_those_with_the_largest_divergence(tiny_llama, tokenizer, windows):
    model, other = tiny_llama(), tiny_llama(seed=1)
    judged = judge(other, windows, model, tuple(windows))
    frame = changed_prompts((model, other), tokenizer, windows, judged, most=2)
    assert list(frame.columns) == list(columns.COLUMNS["changed_prompts"])
    every = sorted((kl for one in judged.kinds.values() for kl in one.kls), reverse=True)
    assert frame.kl.tolist() == pytest.approx(every[:2])
    assert frame["first"].iloc[0] != frame["other"].iloc[0]


def test_strangers_are_refused(tiny_llama):
    model = tiny_llama()
    with pytest.raises(InputError, match="stream of 32 numbers"):
        match(model, tiny_llama(hidden_size=64))
    with pytest.raises(InputError, match="3 layers, got 2"):
        match(model, tiny_llama(num_hidden_layers=2))


def test_parent_and_pruned_are_compared_in_that_order(tiny_llama, tokenizer, sample, tmp_path):
    """Whichever is named first."""
    from comp_lib.models.load import load_model
    from comp_lib.models.save import PLAN_FILE

    model = tiny_llama()
    done = prune(model, sample.ids, Settings(ratio=0.4, layers=1, multiple=8))
    for name, one in (("parent", model), ("small", done.model)):
        one.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    done.plan.save(tmp_path / "small" / PLAN_FILE)
    loaded = {name: (str(tmp_path / name), load_model(tmp_path / name)[0]) for name in ("parent", "small")}
    for one, other in (("parent", "small"), ("small", "parent")):
        pair = paired(loaded[one], loaded[other])
        assert pair.names == ("parent", "small") and pair.plan == done.plan
    (tmp_path / "small" / PLAN_FILE).unlink()
    with pytest.raises(InputError, match="layers"):
        paired(loaded["small"], loaded["parent"])


def test_a_pruned_model_and_its_healed_copy_are_compared_as_they_stand(tiny_llama, tokenizer, sample, tmp_path):
    """Both carry the plan, and neither was pruned from the other."""
    from comp_lib.models.load import load_model
    from comp_lib.models.save import PLAN_FILE

    done = prune(tiny_llama(), sample.ids, Settings(ratio=0.3, layers=0, multiple=8))
    for name in ("small", "healed"):
        done.model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        done.plan.save(tmp_path / name / PLAN_FILE)
    one, two = ((str(tmp_path / name), load_model(tmp_path / name)[0]) for name in ("small", "healed"))
    pair = paired(one, two)
    assert pair.names == ("small", "healed")
    frame = changed_layers(pair.first, pair.other, sample, plan=pair.plan)
    assert len(frame) == 3 and (frame.died == 0).all()
