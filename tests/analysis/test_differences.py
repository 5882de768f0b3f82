"""Two checkpoints side by side: unchanged, changed in one place, and pruned against its parent."""

from __future__ import annotations

import pytest
import torch

from comp_lib.analysis import columns, draw
from comp_lib.analysis.differences import changed_kinds, changed_layers, match_layers, pair
from comp_lib.comp import prune
from comp_lib.errors import InputError
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.loss import compare, evaluation_tokens
from comp_lib.settings import Settings


@pytest.fixture(scope="module")
def sample(tokenizer):
    return draw(tokenizer, ("prose", "code"), windows=4, length=32)


@pytest.fixture(scope="module")
def windows(tokenizer):
    text = (
        "The water rises in the river. It has rained for three days, and nobody knows when it will stop. "
        * 20
    )
    return {
        kind: evaluation_tokens(tokenizer, text[place:], 24, 8) for place, kind in enumerate(("one", "two"))
    }


def test_a_model_does_not_differ_from_itself(tiny_llama, sample, windows):
    model = tiny_llama()
    frame = changed_layers(model, tiny_llama(), sample)
    assert list(frame.columns) == list(columns.COLUMNS["changed_layers"])
    assert frame.stream.abs().max() < 1e-6 and frame.weights.max() == 0
    judged = judge(tiny_llama(), windows, model)
    kinds = changed_kinds(model, judged)
    assert list(kinds.columns) == list(columns.COLUMNS["changed_kinds"])
    assert kinds.kl.abs().max() < 1e-6 and (kinds.agreement == 1).all()


@torch.no_grad()
def test_what_was_changed_is_where_it_was_changed(tiny_llama, sample):
    model, other = tiny_llama(), tiny_llama()
    other.model.layers[1].mlp.down_proj.weight[:, [3, 4]] = 0.0
    frame = changed_layers(model, other, sample).set_index("layer")
    assert frame.stream[0] < 1e-6 < frame.stream[1]
    assert (frame.weights > 0).tolist() == [False, True, False]
    assert ((frame.low <= frame.stream) & (frame.stream <= frame.high)).all()
    whole, change = (
        sum(float(w.square().sum()) for w in ws)
        for ws in (
            model.model.layers[1].parameters(),
            [model.model.layers[1].mlp.down_proj.weight[:, [3, 4]]],
        )
    )
    assert frame.weights[1] == pytest.approx((change / whole) ** 0.5)


def test_a_pruned_model_against_its_parent(tiny_llama, sample, windows):
    model = tiny_llama()
    done = prune(model, sample.ids, Settings(ratio=0.4, layers=1, multiple=8))
    frame = changed_layers(model, done.model, sample, done.plan).set_index("layer")
    [gone] = done.plan.dropped
    assert frame.other_layer.isna().tolist() == [layer == gone for layer in range(3)]
    assert frame.other_neurons[gone] == 0
    assert frame.other_neurons[list(done.plan.layers)].tolist() == list(done.plan.neurons)
    assert frame.other_layer[list(done.plan.layers)].tolist() == [0, 1]
    judged = judge(done.model, windows, model)
    [one] = changed_kinds(model, judged).loc[(slice(None), slice(None), "one"), :].itertuples()
    expected = compare(done.model, model, windows["one"])
    assert (one.dense_loss, one.loss, one.kl) == pytest.approx(
        (expected.dense_loss, expected.loss, expected.kl)
    )


def test_strangers_are_refused(tiny_llama):
    model = tiny_llama()
    with pytest.raises(InputError, match="stream of 32 numbers"):
        match_layers(model, tiny_llama(hidden_size=64))
    with pytest.raises(InputError, match="3 layers, got 2"):
        match_layers(model, tiny_llama(num_hidden_layers=2))


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
        first, second, plan = pair(loaded[one], loaded[other])
        assert (first, second, plan) == (loaded["parent"][1], loaded["small"][1], done.plan)
    (tmp_path / "small" / PLAN_FILE).unlink()
    with pytest.raises(InputError, match="layers"):
        pair(loaded["small"], loaded["parent"])


def test_a_pruned_model_and_its_healed_copy_are_compared_as_they_stand(
    tiny_llama, tokenizer, sample, tmp_path
):
    """Both carry the plan, and neither was pruned from the other."""
    from comp_lib.models.load import load_model
    from comp_lib.models.save import PLAN_FILE

    done = prune(tiny_llama(), sample.ids, Settings(ratio=0.3, layers=0, multiple=8))
    for name in ("small", "healed"):
        done.model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        done.plan.save(tmp_path / name / PLAN_FILE)
    one, two = ((str(tmp_path / name), load_model(tmp_path / name)[0]) for name in ("small", "healed"))
    first, other, plan = pair(one, two)
    assert (first, other) == (one[1], two[1])
    frame = changed_layers(first, other, sample, plan=plan)
    assert len(frame) == 3 and (frame.weights == 0).all()
