"""Every frame against brute force on a tiny model, and against what COLUMNS promises."""

from __future__ import annotations

import pytest
import torch

from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.importance.layers import block_influence, sequence_loss_increase
from comp_lib.importance.problem import RIDGE
from comp_lib.importance.statistics.solve import with_ridge
from comp_lib.importance.statistics.sums import MatrixStatistics, token_weight
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.reports.checkup import Sample, columns, cost_frame, costs, curves, draw, groups, layers, neurons
from comp_lib.reports.checkup import frames as walking
from comp_lib.utils.errors import InputError
from comp_lib.utils.hashes import hash_of_model

KINDS = ("prose", "code", "mathematics")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMP_LIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(tiny_llama, cache):
    return tiny_llama()


@pytest.fixture(scope="module")
def sample(tokenizer):
    return draw(tokenizer, KINDS, window_count=3, window_length=32, seed=5)


@pytest.fixture(scope="module")
def windows_by_text(tokenizer, model):
    sentence = (
        "The water rises in the river. It has rained for three days, and nobody knows when it will stop. "
    )
    text = 20 * sentence
    return {
        "one": evaluation_tokens(tokenizer, text, 24, 8),
        "two": evaluation_tokens(tokenizer, text[1:], 24, 8),
    }


@torch.no_grad()
def inputs_of(model, ids, index, step="mlp"):
    """Inputs of the output linear of a step (T, n) and the stream after the step (T, d), by hooks."""
    layer = model.model.layers[index]
    next_module = [*model.model.layers, model.model.norm][index + 1]
    if step == "mlp":
        modules = (layer.mlp.down_proj, next_module)
    else:
        modules = (layer.self_attn.o_proj, layer.post_attention_layernorm)
    inputs = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, 1)))
        for module in modules
    ]
    model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return inputs


def xtx_of(model, ids, index, step="mlp"):
    x, stream = inputs_of(model, ids, index, step)
    weighted = (x * token_weight(stream)[:, None]).double()
    return weighted.T @ weighted


def down_proj_weight(model, index):
    """W (n, m) in float64."""
    return model.model.layers[index].mlp.down_proj.weight.detach().double().T


def frames(model, sample, windows_by_text):
    yield "layers", layers(model, sample, judged=sample)
    yield "neurons", neurons(model, sample)
    yield "groups", groups(model, sample)
    yield "curves", curves(model, sample)
    yield "costs", costs(model, sample, windows_by_text, (0.2,), ("stock", "shortgpt"))


def test_frames_have_the_promised_columns_and_index_and_something_behind_each_number(
    model, sample, windows_by_text
):
    for name, frame in frames(model, sample, windows_by_text):
        assert list(frame.columns) == list(columns.COLUMNS[name]), name
        assert list(frame.index.names) == list(columns.INDEX_COLUMNS), name
        assert set(frame.index.get_level_values("model")) == {hash_of_model(model)}
        assert len(frame), name
        assert (frame.tokens > 0).all(), name
        assert not frame.drop(columns=["removed_at"], errors="ignore").isna().any().any(), name
        assert not frame.reset_index().duplicated([*columns.INDEX_COLUMNS, *frame.columns[:4]]).any(), name


def price_of_removal(matrix, weight, inputs):
    """min over V with V = 0 in rows `inputs` of tr((V - W)^T H (V - W)), by a solve for the other rows."""
    others = torch.tensor([row for row in range(len(weight)) if row not in inputs])
    change = -weight.clone()
    change[others] = torch.linalg.solve(
        matrix[others[:, None], others], matrix[others[:, None], inputs] @ weight[inputs]
    )
    return float((change * (matrix @ change)).sum())


def test_layers_equal_the_library(model, sample):
    frame = layers(model, sample, judged=sample)
    layer_rows = frame[frame.part == "layer"]
    influence = layer_rows[layer_rows.measure == "block influence"].sort_values("layer").value
    expected = block_influence(model, sample.ids).double()
    assert torch.allclose(torch.tensor(influence.to_numpy()), expected, atol=1e-6)
    increase = layer_rows[layer_rows.measure == "loss increase"].sort_values("layer").value
    expected = sequence_loss_increase(model, sample.ids).mean(1).double()
    assert torch.allclose(torch.tensor(increase.to_numpy()), expected, atol=1e-6)
    _, before = inputs_of(model, sample.ids, 0)
    _, middle = inputs_of(model, sample.ids, 1, "attention")
    _, after = inputs_of(model, sample.ids, 1)
    attention_turn = 1 - float(torch.cosine_similarity(before, middle, dim=-1).mean())
    mlp_turn = 1 - float(torch.cosine_similarity(middle, after, dim=-1).mean())
    step_rows = frame[(frame.layer == 1) & (frame.part != "layer")]
    assert step_rows.value.tolist() == pytest.approx([attention_turn, mlp_turn], abs=1e-5)
    assert ((frame.low <= frame.value) & (frame.value <= frame.high)).all()
    assert set(frame.tokens) == {sample.ids.numel()}


def test_fewer_than_8_windows_have_no_interval(model, sample):
    frame = layers(model, sample, judged=Sample(sample.ids[:7], sample.kinds[:7]))
    increase = frame.measure == "loss increase"
    assert frame[increase].low.isna().all()
    assert frame[increase].high.isna().all()
    assert set(frame[increase].windows) == {7}
    assert frame[~increase].low.notna().all()
    assert set(frame[~increase].windows) == {9}


def test_neurons_equal_brute_force(model, sample):
    frame = neurons(model, sample, indices=[1])
    xtx = xtx_of(model, sample.ids, 1)
    weight = down_proj_weight(model, 1)
    energy = xtx.diagonal() * weight.square().sum(1)
    assert frame.energy.sum() == pytest.approx(1.0, abs=1e-12)
    assert torch.allclose(torch.tensor(frame.energy.to_numpy()), energy / energy.sum(), rtol=1e-4)
    matrix = with_ridge(xtx, RIDGE)
    inverse = torch.linalg.inv(matrix)
    condition = (matrix.diagonal() * inverse.diagonal()).sqrt()
    assert torch.allclose(torch.tensor(frame.condition.to_numpy()), condition, rtol=1e-4)
    layer_energy = float((weight * (xtx @ weight)).sum())
    for neuron, cost in enumerate(frame.cost):
        price = price_of_removal(matrix, weight, torch.tensor([neuron]))
        assert cost == pytest.approx(price / layer_energy, rel=1e-4)
    norms = xtx.diagonal().sqrt()
    mlp = model.model.layers[1].mlp
    rows = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight], dim=1).detach().double()
    rivals = {
        "wanda_sp": weight.abs().sum(1) * norms,
        "activation": norms,
        "magnitude": (rows.square().sum(1) + weight.square().sum(1)).sqrt(),
    }
    for name, expected in rivals.items():
        assert torch.allclose(torch.tensor(frame[name].to_numpy()), expected, rtol=1e-4), name


def test_few_tokens_say_the_same_in_the_dual_form(model, tokenizer):
    few = draw(tokenizer, ("prose",), window_count=1, window_length=24)  # fewer than 48 neurons
    frame = neurons(model, few, indices=[2])
    xtx = xtx_of(model, few.ids, 2)
    weight = down_proj_weight(model, 2)
    matrix = with_ridge(xtx, RIDGE)
    layer_energy = float((weight * (xtx @ weight)).sum())
    for neuron, cost in enumerate(frame.cost):
        price = price_of_removal(matrix, weight, torch.tensor([neuron]))
        assert cost == pytest.approx(price / layer_energy, rel=1e-3)


def test_curves_equal_refits_of_the_neurons_that_are_left(model, sample):
    frame = curves(model, sample, indices=[1])
    removed_at = neurons(model, sample, indices=[1]).removed_at.to_numpy()
    weight = down_proj_weight(model, 1)
    statistics = MatrixStatistics.of(xtx_of(model, sample.ids, 1))
    for row in frame.iloc[[1, 5, -1]].itertuples():
        kept = torch.tensor(
            [neuron for neuron, share in enumerate(removed_at) if not share * 48 <= row.gone + 1e-9]
        )
        assert len(kept) == row.width == 48 - row.gone
        fitted = statistics.refit(weight, kept, RIDGE)
        assert row.error == pytest.approx(
            statistics.energy(weight - fitted) / statistics.energy(weight), rel=1e-3
        )
    assert (frame.error.diff().dropna() >= -1e-9).all()
    assert frame.error.iloc[0] == 0


def test_groups_equal_brute_force(model, sample):
    assert groups(model, sample).groupby("layer").size().tolist() == [2, 2, 2]
    frame = groups(model, sample, indices=[1])
    xtx = xtx_of(model, sample.ids, 1, "attention")
    weight = model.model.layers[1].self_attn.o_proj.weight.detach().double().T
    energy = xtx.diagonal() * weight.square().sum(1)
    shares = energy.view(2, -1).sum(1) / energy.sum()
    torch.testing.assert_close(torch.tensor(frame.energy.to_numpy()), shares, rtol=1e-4, atol=0)
    matrix = with_ridge(xtx, RIDGE)
    inverse = torch.linalg.inv(matrix)
    condition = (matrix.diagonal() * inverse.diagonal()).sqrt().view(2, -1).amax(1)
    assert torch.allclose(torch.tensor(frame.condition.to_numpy()), condition, rtol=1e-4)
    layer_energy = float((weight * (xtx @ weight)).sum())
    size = len(weight) // 2
    for group, cost in enumerate(frame.cost):
        price = price_of_removal(matrix, weight, torch.arange(group * size, (group + 1) * size))
        assert cost == pytest.approx(price / layer_energy, rel=1e-4)


def test_costs_equal_the_library(model, sample, windows_by_text):
    frame = costs(model, sample, windows_by_text, (0.2,), ("magnitude",))
    small = prune(model, sample.ids, Settings(ratio=0.2, method="magnitude", recovery="none")).model
    judged = judge(small, windows_by_text, model)
    _, row_of_mean = judged.make_mean_row()
    for kind, (values, bounds) in (judged.make_rows() | {"all": row_of_mean}).items():
        [row] = frame.loc[(slice(None), slice(None), kind), :].itertuples()
        assert row.increase == pytest.approx(values["increase"], abs=1e-6)
        assert (row.low, row.high) == pytest.approx(bounds["increase"], abs=1e-6)
        assert row.dense_loss == pytest.approx(values["dense_loss"], abs=1e-6)
    assert set(frame.parameters) == {sum(p.numel() for p in small.parameters())}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, sample: neurons(model, sample, indices=[3]), "layers from 0 to 2, got 3"),
        (lambda model, sample: curves(model, sample, indices=[-1]), "got -1"),
        (lambda model, sample: curves(model, sample, indices=[]), "got none"),
        (lambda model, sample: costs(model, sample, {}, (0.2,), ("stok",)), "did you mean 'stock'"),
        (lambda model, sample: costs(model, sample, {}, (0.99,), ("stock",)), "ratio"),
    ],
)
def test_what_cannot_be_had_is_refused(model, sample, call, message):
    with pytest.raises(InputError, match=message):
        call(model, sample)


def test_the_dense_model_is_judged_once_for_all_ratios(model, sample, windows_by_text, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    judged = []
    labels = set()

    def count(judged_model, windows, parent=None, **options):
        judged.append(judged_model is model)
        return judge(judged_model, windows, parent, **options)

    monkeypatch.setattr(cost_frame, "judge", count)
    costs(
        model,
        sample,
        windows_by_text,
        (0.1, 0.2),
        ("magnitude",),
        progress=lambda label, *_: labels.add(label),
    )
    assert sorted(judged) == [False, False, True]
    assert {"magnitude 10%: pruning", "magnitude 20%: one", "magnitude 10%: dense model: two"} <= labels


def test_what_was_looked_at_is_not_looked_at_again(model, sample, monkeypatch):
    first = neurons(model, sample)

    def never(*_):
        raise AssertionError("computed anew")

    monkeypatch.setattr(walking, "_examine_layer", never)
    assert neurons(model, sample).equals(first)
    assert len(groups(model, sample)) == 6
