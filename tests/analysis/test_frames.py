"""Every frame of the bench against brute force on a tiny model, and against what COLUMNS promises."""

from __future__ import annotations

import math

import pytest
import seaborn as sns
import torch
from torch.nn import functional as F

from comp_lib.analysis import columns, costs, curves, draw, groups, latency, layers, neurons, spectra, write
from comp_lib.analysis import one_pass as walking
from comp_lib.analysis.harm import step_harm
from comp_lib.analysis.store import fingerprint
from comp_lib.errors import InputError
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_interval, confidence_intervals
from comp_lib.evaluation.loss import evaluation_tokens
from comp_lib.importance.layers import block_influence, loss_increase
from comp_lib.importance.neurons import RIDGE
from comp_lib.prune import prune
from comp_lib.scale.model_on_disk import open_streamed
from comp_lib.settings import Settings
from comp_lib.statistics.gram import Gram, token_weights
from comp_lib.statistics.solve import ridged

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
    return draw(tokenizer, KINDS, windows=3, length=32, seed=5)


@pytest.fixture(scope="module")
def windows(tokenizer, model):
    text = "The water rises in the river. It has rained for three days, and nobody knows when it will stop. " * 20
    return {kind: evaluation_tokens(tokenizer, text[place:], 24, 3) for place, kind in enumerate(("one", "two"))}


@torch.no_grad()
def inputs_of(model, ids, layer):
    """What down_proj of a layer reads (T, n) and the stream behind the layer (T, d), by a hook in the whole model."""
    seen = []
    module = model.model.layers[layer].mlp.down_proj
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    states = []
    after = model.model.layers[layer].register_forward_hook(
        lambda _, args, out: states.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    model(input_ids=ids)
    hook.remove()
    after.remove()
    return seen[0].flatten(0, 1), states[0].flatten(0, 1)


def gram_of(model, ids, layer):
    x, stream = inputs_of(model, ids, layer)
    weighted = (x * token_weights(stream)[:, None]).double()
    return weighted.T @ weighted


@pytest.mark.parametrize("name", sorted(columns.COLUMNS))
def test_every_column_says_its_unit(name):
    for column, words in columns.COLUMNS[name].items():
        assert len(words.split()) >= 2 and not words.endswith("."), column


def frames(model, sample, windows):
    yield "layers", layers(model, sample, harm=("layer", "steps"), greedy=2)
    yield "neurons", neurons(model, sample)
    yield "groups", groups(model, sample)
    yield "spectra", spectra(model, sample)
    yield "curves", curves(model, sample)
    yield "costs", costs(model, sample, windows, (0.2,), ("uniform", "whole layers"), multiple=8)
    yield "latency", latency(model, prompt=8, new_tokens=2, rounds=1)


def test_frames_have_the_promised_columns_and_index_and_something_behind_each_number(model, sample, windows):
    for name, frame in frames(model, sample, windows):
        assert list(frame.columns) == list(columns.COLUMNS[name]), name
        assert list(frame.index.names) == list(columns.INDEX), name
        assert set(frame.index.get_level_values("model")) == {fingerprint(model)}
        assert len(frame) and (frame.tokens > 0).all(), name
        assert not frame.drop(columns=["removed_at", "mask_cost"], errors="ignore").isna().any().any(), name
        assert not frame.reset_index().duplicated([*columns.INDEX, *frame.columns[:4]]).any(), name


@pytest.mark.parametrize(
    ("frame", "drawn"),
    [
        (layers, {"x": "layer", "y": "value", "hue": "kind"}),
        (neurons, {"x": "energy", "y": "condition", "hue": "layer"}),
        (groups, {"x": "layer", "y": "cost"}),
        (spectra, {"x": "place", "y": "cumulative", "hue": "matrix"}),
        (curves, {"x": "share_gone", "y": "error", "hue": "part"}),
    ],
)
def test_seaborn_draws_them_without_reshaping(model, sample, frame, drawn):
    axes = sns.scatterplot(frame(model, sample), **drawn)
    assert axes.collections
    axes.figure.clf()


def test_layers_equal_the_library(model, sample):
    frame = layers(model, sample, greedy=2)
    whole = frame[(frame.index.get_level_values("kind") == "all") & (frame.part == "layer")]
    influence = whole[whole.measure == "block influence"].sort_values("layer").value
    assert torch.allclose(torch.tensor(influence.to_numpy()), block_influence(model, sample.ids).double(), atol=1e-6)
    harm = whole[whole.measure == "harm"].sort_values("layer").value
    assert torch.allclose(torch.tensor(harm.to_numpy()), loss_increase(model, sample.ids).double(), atol=1e-6)
    greedy = whole[whole.measure == "greedy"]
    assert sorted(greedy["round"]) == [0, 0, 0, 1, 1]
    first = int(harm.to_numpy().argmin())
    second = greedy[greedy["round"] == 1].set_index("layer").value
    present = [layer for layer in range(3) if layer != first]
    assert sorted(second.index) == present
    assert torch.allclose(
        torch.tensor(second[present].to_numpy()),
        loss_increase(model, sample.ids, present=present)[present].double(),
        atol=1e-6,
    )


def test_means_of_the_kinds_make_the_mean_of_all(model, sample):
    frame = layers(model, sample)
    rows = frame[(frame.measure == "harm") & (frame.layer == 1)]
    kinds = rows.index.get_level_values("kind")
    assert set(kinds) == {*KINDS, "all"}
    assert rows[kinds != "all"].value.mean() == pytest.approx(float(rows[kinds == "all"].value.iloc[0]), abs=1e-9)
    assert rows[kinds != "all"].tokens.sum() == rows[kinds == "all"].tokens.iloc[0] == sample.tokens
    assert ((rows.low <= rows.value) & (rows.value <= rows.high)).all()


@torch.no_grad()
@pytest.mark.parametrize("which", ["attention", "mlp"])
def test_harm_of_a_step_is_that_of_a_model_without_it(model, sample, which, tiny_llama):
    harm = step_harm(model, sample, which)
    loss = _losses(model, sample.ids)
    for layer in range(3):
        other = tiny_llama()
        module = other.model.layers[layer]
        (module.self_attn.o_proj if which == "attention" else module.mlp.down_proj).weight.zero_()
        assert torch.allclose(harm[layer], _losses(other, sample.ids) - loss, atol=2e-5)


def _losses(model, ids):
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.stack([F.cross_entropy(row, tokens) for row, tokens in zip(logits, ids[:, 1:], strict=True)])


def test_neurons_equal_brute_force(model, sample):
    frame, layer = neurons(model, sample, layers=[1]), model.model.layers[1]
    xtx, weight = gram_of(model, sample.ids, 1), layer.mlp.down_proj.weight.detach().double().T
    own = xtx.diagonal() * weight.square().sum(1)
    assert frame.energy.sum() == pytest.approx(1.0, abs=1e-12)
    assert torch.allclose(torch.tensor(frame.energy.to_numpy()), own / own.sum(), rtol=1e-4)
    matrix = ridged(xtx, RIDGE)
    inverse = torch.linalg.inv(matrix)
    condition = (matrix.diagonal() * inverse.diagonal()).sqrt()
    assert torch.allclose(torch.tensor(frame.condition.to_numpy()), condition, rtol=1e-4)
    whole = float((weight * (xtx @ weight)).sum())
    cost = weight.square().sum(1) / inverse.diagonal() / whole
    assert torch.allclose(torch.tensor(frame.cost.to_numpy()), cost, rtol=1e-4)
    mask = torch.linalg.inv(ridged(xtx * (weight @ weight.T), RIDGE))
    assert torch.allclose(torch.tensor(frame.mask_cost.to_numpy()), 1 / mask.diagonal() / whole, rtol=1e-4)


def test_stand_ins_are_the_ridge_regression_on_the_others(model, sample):
    frame = neurons(model, sample, layers=[0])
    matrix = ridged(gram_of(model, sample.ids, 0), RIDGE)
    for neuron in (0, 17, 47):
        others = [place for place in range(48) if place != neuron]
        solved = torch.linalg.solve(matrix[others][:, others], matrix[others, neuron])
        row = frame.iloc[neuron]
        for name, share in zip(row.stand_ins.split(", "), row.coefficients.split(", "), strict=True):
            assert float(share) == pytest.approx(float(solved[others.index(int(name))]), rel=1e-2, abs=1e-4)


def test_few_tokens_say_the_same_in_the_dual_form(model, tokenizer):
    few = draw(tokenizer, ("prose",), windows=1, length=24)  # fewer than 48 neurons
    frame = neurons(model, few, layers=[2])
    xtx, weight = gram_of(model, few.ids, 2), model.model.layers[2].mlp.down_proj.weight.detach().double().T
    inverse = torch.linalg.inv(ridged(xtx, RIDGE))
    whole = float((weight * (xtx @ weight)).sum())
    cost = weight.square().sum(1) / inverse.diagonal() / whole
    assert torch.allclose(torch.tensor(frame.cost.to_numpy()), cost, rtol=1e-3)
    assert frame.mask_cost.isna().all()  # the mask problem has no dual form


def test_curves_equal_refits_of_the_neurons_that_are_left(model, sample):
    frame = curves(model, sample, layers=[1])
    mlp, order = frame[frame.part == "mlp"], neurons(model, sample, layers=[1]).removed_at.to_numpy()
    xtx, weight = gram_of(model, sample.ids, 1), model.model.layers[1].mlp.down_proj.weight.detach().double().T
    gram = Gram.of(xtx)
    for row in mlp.iloc[[1, 5, -1]].itertuples():
        kept = torch.tensor([place for place, at in enumerate(order) if not at * 48 <= row.gone + 1e-9])
        assert len(kept) == row.width == 48 - row.gone
        fitted = gram.refit(weight, kept, RIDGE)
        assert row.error == pytest.approx(gram.energy(weight - fitted) / gram.energy(weight), rel=1e-3)
    assert (mlp.error.diff().dropna() >= -1e-9).all() and mlp.error.iloc[0] == 0


def test_spectra_are_shares_that_add_up(model, sample):
    frame = spectra(model, sample, layers=[0], most=1000)
    rows = frame[(frame.part == "mlp") & (frame.matrix == "C")]
    values = torch.linalg.eigvalsh(gram_of(model, sample.ids, 0)).flip(0)
    shares = values / values.sum()
    assert len(rows) == 48 and rows.share.sum() == pytest.approx(1.0)
    assert torch.allclose(torch.tensor(rows.share.to_numpy()), shares, atol=1e-6)
    assert rows.cumulative.iloc[-1] == pytest.approx(1.0)
    rank = math.exp(-float((shares * shares.log()).sum()))
    assert rows.effective_rank.iloc[0] == pytest.approx(rank, rel=1e-3)
    assert 1 <= rank <= 48


def test_groups_have_shares_that_add_up_and_one_of_each_layer_stays(model, sample):
    frame = groups(model, sample)
    assert frame.groupby("layer").energy.sum().to_numpy() == pytest.approx([1.0] * 3)
    assert frame.groupby("layer").removed_at.count().tolist() == [1, 1, 1]


def test_costs_equal_the_library(model, sample, windows):
    frame = costs(model, sample, windows, (0.2,), ("magnitude",), multiple=8)
    small = prune(model, sample.ids, Settings(ratio=0.2, method="magnitude", recovery="none", multiple=8)).model
    judged = judge(small, windows, model)
    for kind, (values, bounds) in judged.rows().items():
        [row] = frame.loc[(slice(None), slice(None), kind if kind in windows else "all"), :].itertuples()
        assert row.increase == pytest.approx(values["increase"], abs=1e-6)
        assert (row.low, row.high) == pytest.approx(bounds["increase"], abs=1e-6)
        assert (row.kl_low, row.kl_high) == pytest.approx(bounds["kl"], abs=1e-6)
        assert row.agreement == pytest.approx(values["top1_agreement"], abs=1e-6)
    assert set(frame.parameters) == {sum(p.numel() for p in small.parameters())}


def test_shares_of_latency_add_up(model):
    frame = latency(model, prompt=8, new_tokens=2, rounds=1)
    assert frame.groupby("what").share.sum().to_numpy() == pytest.approx([1.0, 1.0])


def test_intervals_are_those_of_the_bootstrap():
    values = torch.tensor([[1.0, 2.0, 4.0, 8.0], [3.0, 3.0, 3.0, 3.0], [1.0, math.nan, 2.0, 3.0]])
    found = confidence_intervals(values.numpy())
    assert found[0] == pytest.approx(confidence_interval(values[0].tolist()))
    assert found[1] == pytest.approx((3.0, 3.0))
    assert all(map(math.isnan, found[2]))
    assert all(map(math.isnan, confidence_intervals(values[:, :1].numpy())[0]))


def test_a_model_on_disk_gives_the_same_frames(parent, sample, cache, monkeypatch, tmp_path):
    from comp_lib.models.load import load_model

    streamed, whole = open_streamed(parent)[0], load_model(parent)[0]
    assert fingerprint(streamed) == fingerprint(whole)
    few = sample.first(3)
    fresh = list(walking.one_pass(streamed, few))
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))  # nothing there: computed anew
    for found, expected in zip(fresh, walking.one_pass(whole, few), strict=True):
        for name in ("mlp:energy", "mlp:cost", "attention:errors", "turn:layer"):
            assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-9)


def test_a_pass_that_was_cut_off_goes_on_behind_its_last_layer(model, tokenizer, monkeypatch):
    few, looked = draw(tokenizer, ("dialogue",), windows=2, length=16), []
    look = walking._look
    monkeypatch.setattr(walking, "_look", lambda layer, *rest: looked.append(layer) or look(layer, *rest))
    first = walking.one_pass(model, few)
    next(first), next(first)
    first.close()  # killed between two layers
    assert len(looked) == 2
    whole = list(walking.one_pass(model, few))
    assert len(looked) == 3 and len(whole) == 3
    assert len(list(walking.one_pass(model, few))) == 3 and len(looked) == 3


def test_what_is_cleared_in_the_middle_of_a_pass_is_not_missed(model, tokenizer, cache, monkeypatch, tmp_path):
    few = draw(tokenizer, ("reference",), windows=2, length=16)
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    list(walking.one_pass(model, few, layers=[2]))  # known already when the pass begins
    found = walking.one_pass(model, few)
    first = next(found)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert [one.keys() for one in found] == [first.keys()] * 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model, sample: neurons(model, sample, layers=[3]), "layers from 0 to 2, got 3"),
        (lambda model, sample: layers(model, sample, greedy=3), "0 to 2 rounds"),
        (lambda model, sample: layers(model, sample, harm=("heads",)), "got heads"),
        (lambda model, sample: costs(model, sample, {}, (0.2,), ("unifrom",)), "did you mean 'uniform'"),
        (lambda model, sample: costs(model, sample, {}, (0.99,), ("uniform",)), "ratio"),
    ],
)
def test_what_cannot_be_had_is_refused(model, sample, call, words):
    with pytest.raises(InputError, match=words):
        call(model, sample)


@pytest.mark.parametrize("kinds", [("poems",), (), ("code", "code")])
def test_kinds_that_do_not_exist_are_refused(tokenizer, kinds):
    with pytest.raises(InputError, match="expected"):
        draw(tokenizer, kinds)


def test_frames_are_written_whole_and_nothing_is_overwritten(model, sample, tmp_path, monkeypatch):
    import pandas as pd

    frame = groups(model, sample)
    path = write(frame, tmp_path / "groups.csv")
    read = pd.read_csv(path).set_index(list(columns.INDEX))
    assert read.energy.to_numpy() == pytest.approx(frame.energy.to_numpy())
    with pytest.raises(InputError, match="--overwrite"):
        write(frame, path)
    write(frame, path, overwrite=True)
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        write(frame, tmp_path / "groups.xls")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        write(frame, tmp_path / "groups.parquet")


def test_parquet_keeps_the_types(model, sample, tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = groups(model, sample)
    read = pd.read_parquet(write(frame, tmp_path / "groups.parquet")).set_index(list(columns.INDEX))
    pd.testing.assert_frame_equal(read, frame, check_index_type=False, check_dtype=False)


def test_a_damaged_entry_is_computed_anew(model, sample, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    whole = neurons(model, sample)
    entries = sorted((tmp_path / "analysis").iterdir())
    assert len(entries) == 3
    entries[0].write_bytes(b"cut off")
    assert neurons(model, sample).equals(whole)
