"""Two checkpoints side by side: unchanged, changed in one place, and pruned against its parent."""

from __future__ import annotations

import pytest
import torch

from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.loss import compare_losses
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.reports.checkup import columns, draw
from comp_lib.reports.checkup.differences import changed_kinds, changed_layers, match_layers, pair
from comp_lib.utils.errors import InputError


@pytest.fixture(scope="module")
def sample(tokenizer):
    return draw(tokenizer, ("prose", "code"), window_count=4, window_length=32)


@pytest.fixture(scope="module")
def windows_by_text(tokenizer):
    sentence = (
        "The water rises in the river. It has rained for three days, and nobody knows when it will stop. "
    )
    text = 20 * sentence
    return {
        "one": evaluation_tokens(tokenizer, text, 24, 8),
        "two": evaluation_tokens(tokenizer, text[1:], 24, 8),
    }


def test_a_model_does_not_differ_from_itself(tiny_llama, sample, windows_by_text):
    model = tiny_llama()
    frame = changed_layers(tiny_llama(), model, sample)
    assert list(frame.columns) == list(columns.COLUMNS["changed_layers"])
    assert frame.stream.abs().max() < 1e-6
    assert frame.weights.max() == 0
    judged = judge(tiny_llama(), windows_by_text, model)
    kinds = changed_kinds(judged, model)
    assert list(kinds.columns) == list(columns.COLUMNS["changed_kinds"])
    assert kinds.kl.abs().max() < 1e-6
    assert (kinds.top1_agreement == 1).all()


@torch.no_grad()
def test_what_was_changed_is_where_it_was_changed(tiny_llama, sample):
    model = tiny_llama()
    other_model = tiny_llama()
    other_model.model.layers[1].mlp.down_proj.weight[:, [3, 4]] = 0.0
    frame = changed_layers(other_model, model, sample).set_index("layer")
    assert frame.stream[0] < 1e-6 < frame.stream[1]
    assert (frame.weights > 0).tolist() == [False, True, False]
    assert ((frame.low <= frame.stream) & (frame.stream <= frame.high)).all()
    layer = model.model.layers[1]
    squared_norm = sum(float(weight.square().sum()) for weight in layer.parameters())
    squared_change = float(layer.mlp.down_proj.weight[:, [3, 4]].square().sum())
    assert frame.weights[1] == pytest.approx((squared_change / squared_norm) ** 0.5)


def test_a_pruned_model_against_its_parent(tiny_llama, sample, windows_by_text):
    model = tiny_llama()
    pruned = prune(
        model, sample.ids, Settings(ratio=0.4, drop_layers=1, multiple=8, widths="uniform", aim="self")
    )
    frame = changed_layers(pruned.model, model, sample, pruned.plan).set_index("layer")
    [dropped] = pruned.plan.dropped
    assert frame.other_layer.isna().tolist() == [layer == dropped for layer in range(3)]
    assert frame.other_neurons[dropped] == 0
    assert frame.other_neurons[list(pruned.plan.layers)].tolist() == list(pruned.plan.neurons)
    assert frame.other_layer[list(pruned.plan.layers)].tolist() == [0, 1]
    judged = judge(pruned.model, windows_by_text, model)
    [row] = changed_kinds(judged, model).loc[(slice(None), slice(None), "one"), :].itertuples()
    expected = compare_losses(pruned.model, model, windows_by_text["one"])
    assert row.dense_loss == pytest.approx(expected.dense_loss)
    assert row.loss == pytest.approx(expected.loss)
    assert row.kl == pytest.approx(expected.kl)


def test_strangers_are_refused(tiny_llama):
    model = tiny_llama()
    with pytest.raises(InputError, match="stream of 32 numbers"):
        match_layers(tiny_llama(hidden_size=64), model)
    with pytest.raises(InputError, match="3 layers, got 2"):
        match_layers(tiny_llama(num_hidden_layers=2), model)


def test_the_pruned_model_comes_before_its_parent(tiny_llama, tokenizer, sample, tmp_path):
    """Whichever is named first."""
    from comp_lib.checkpoints.load import load_model
    from comp_lib.checkpoints.new_folder import PLAN_FILE

    model = tiny_llama()
    pruned = prune(
        model, sample.ids, Settings(ratio=0.4, drop_layers=1, multiple=8, widths="uniform", aim="self")
    )
    for name, saved in (("parent", model), ("small", pruned.model)):
        saved.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    pruned.plan.save(tmp_path / "small" / PLAN_FILE)
    loaded = {name: (str(tmp_path / name), load_model(tmp_path / name)[0]) for name in ("parent", "small")}
    for names in (("parent", "small"), ("small", "parent")):
        smaller, larger, plan = pair(*(loaded[name] for name in names))
        assert (smaller, larger, plan) == (loaded["small"][1], loaded["parent"][1], pruned.plan)
    (tmp_path / "small" / PLAN_FILE).unlink()
    with pytest.raises(InputError, match="layers"):
        pair(loaded["small"], loaded["parent"])


def test_a_pruned_model_and_its_healed_copy_are_compared_as_they_stand(
    tiny_llama, tokenizer, sample, tmp_path
):
    """Both carry the plan, and neither was pruned from the other."""
    from comp_lib.checkpoints.load import load_model
    from comp_lib.checkpoints.new_folder import PLAN_FILE

    pruned = prune(
        tiny_llama(), sample.ids, Settings(ratio=0.3, drop_layers=0, multiple=8, widths="uniform", aim="self")
    )
    for name in ("small", "healed"):
        pruned.model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        pruned.plan.save(tmp_path / name / PLAN_FILE)
    small, healed = (load_model(tmp_path / name)[0] for name in ("small", "healed"))
    second, first, plan = pair((str(tmp_path / "small"), small), (str(tmp_path / "healed"), healed))
    assert (first, second) == (small, healed)
    frame = changed_layers(second, first, sample, plan=plan)
    assert len(frame) == 3
    assert (frame.weights == 0).all()
