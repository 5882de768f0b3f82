"""What a neuron does, against brute force on a tiny model."""

from __future__ import annotations

import pytest
import torch

from comp_lib.analysis import columns, draw, neurons, tokens_of
from comp_lib.errors import InputError


@pytest.fixture
def model(tiny_llama, own_cache):
    return tiny_llama()


@pytest.fixture
def sample(tokenizer):
    return draw(tokenizer, ("prose", "code"), windows=2, length=32)


@torch.no_grad()
def test_it_fires_where_its_activation_is_largest(model, tokenizer, sample):
    frame = tokens_of(model, tokenizer, sample, 1, [7], most=4)
    seen = []
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][..., 7]))
    model(input_ids=sample.ids)
    fires = frame[(frame.neuron == 7) & (frame.reading == "fires on")]
    best = seen[0].abs().flatten().topk(4).indices
    assert fires.value.tolist() == pytest.approx(seen[0].flatten()[best].tolist(), abs=1e-5)
    window, position = divmod(int(best[0]), 32)
    assert fires.token.iloc[0] == tokenizer.decode(sample.ids[window, position : position + 1])
    assert fires.before.iloc[0] == tokenizer.decode(sample.ids[window, max(0, position - 10) : position])
    assert set(fires.tokens) == {sample.tokens}


@torch.no_grad()
def test_it_pushes_what_its_output_says_through_norm_and_head(model, tokenizer, sample):
    frame = tokens_of(model, tokenizer, sample, 2, [3], most=5)
    written = model.model.layers[2].mlp.down_proj.weight[:, 3]
    normed = written / (written.square().mean() + model.config.rms_norm_eps).sqrt() * model.model.norm.weight
    logits = model.lm_head.weight @ normed
    up, down = (frame[(frame.neuron == 3) & (frame.reading == name)] for name in ("pushes up", "pushes down"))
    assert up.value.tolist() == pytest.approx(logits.topk(5).values.tolist(), rel=1e-4)
    assert down.value.tolist() == pytest.approx((-(-logits).topk(5).values).tolist(), rel=1e-4)
    assert set(up.tokens) == {512}


def test_stand_ins_stand_beside_it_with_their_coefficients(model, tokenizer, sample):
    frame = tokens_of(model, tokenizer, sample, 0, [5], stand_ins=2)
    assert list(frame.columns) == list(columns.COLUMNS["tokens_of"])
    row = neurons(model, sample, layers=[0]).iloc[5]
    names, shares = row.stand_ins.split(", ")[:2], row.coefficients.split(", ")[:2]
    others = frame[frame.neuron != 5].drop_duplicates("neuron")
    assert others.neuron.tolist() == list(map(int, names))
    assert others.coefficient.tolist() == pytest.approx(list(map(float, shares)), rel=1e-3)
    assert set(frame.of) == {5} and set(frame[frame.neuron == 5].coefficient) == {1.0}


@pytest.mark.parametrize(("layer", "neuron", "words"), [(3, 0, "layers from 0 to 2"), (0, 48, "neurons from 0 to 47")])
def test_what_is_not_there_is_refused(model, tokenizer, sample, layer, neuron, words):
    with pytest.raises(InputError, match=words):
        tokens_of(model, tokenizer, sample, layer, [neuron])


def test_a_slider_shows_one_neuron_after_the_other(model, tokenizer, sample):
    pytest.importorskip("ipywidgets")
    from comp_lib.analysis.reader import NeuronReader

    asked = []

    def meaning(layer, neuron):
        asked.append((layer, neuron))
        return tokens_of(model, tokenizer, sample, layer, [neuron])

    reader = NeuronReader([(0, 5), (1, 7)], meaning)
    first = reader.facts.value
    assert "neuron 5 of layer 0" in reader.image.value and "pushes up" in first
    reader.place.value = 2
    assert "neuron 7 of layer 1" in reader.image.value and reader.facts.value != first
    reader.place.value = 1
    assert reader.facts.value == first and asked == [(0, 5), (1, 7)]
