"""The page's modules, run by node, against comp_lib's numbers of a tiny model."""

from __future__ import annotations

import itertools
from pathlib import Path

import measure
import pytest
import torch
from packing import as_base64

from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import layers_of
from comp_lib.hybrid_granularity.measured import MeasuredHarm
from comp_lib.hybrid_granularity.plan import PlanRequest
from comp_lib.importance import matrix_condition
from comp_lib.importance.problem import RIDGE
from comp_lib.importance.statistics.solve import spd_inverse, with_ridge

OUTPUTS = 6
PER_ROUND = 7
REMOVE = 35


@pytest.fixture(scope="module")
def packed(tiny_llama, ids):
    """A layer of a tiny model as the page carries it, and R and W as the page reads them."""
    xtx, weight = measure.layer_sums(tiny_llama(), ids, 1)
    gram_bytes, weight_bytes, share = measure.packed_layer(xtx, weight, OUTPUTS)
    gram, principal = measure.unpacked_layer(gram_bytes, weight_bytes, len(xtx))
    return {
        "gram": as_base64(gram_bytes),
        "weights": as_base64(weight_bytes),
        "size": len(xtx),
        "outputs": OUTPUTS,
        "ridge": RIDGE,
        "share": share,
        "matrices": (gram, principal),
        "whole": (xtx, weight),
    }


def page_data(packed):
    return {name: value for name, value in packed.items() if name not in ("matrices", "whole")}


PREPARE = """
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const layer = m.prepareLayer({ ...data, gram: bytes(data.gram), weights: bytes(data.weights) });
"""


def test_half_precision_is_read_as_numpy_wrote_it(javascript):
    numbers = [0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, -5e-6, 0.333251953125]
    content = as_base64(measure.half_bytes(torch.tensor(numbers, dtype=torch.float64)))
    answer = javascript("packing.js", "return m.halvesOf(m.bytesOf(data));", content)
    assert answer == measure.from_half_bytes(measure.half_bytes(torch.tensor(numbers))).tolist()
    assert answer[5] > 0, "the smallest numbers are not lost"


def test_the_page_unpacks_the_matrix_that_was_packed(javascript, packed):
    answer = javascript("layer_worker.js", PREPARE + "return [layer.gram, layer.weights];", page_data(packed))
    gram, principal = packed["matrices"]
    assert torch.equal(torch.tensor(answer[0]).double().reshape(gram.shape), gram)
    assert torch.equal(torch.tensor(answer[1], dtype=torch.float64), principal.flatten())


def test_the_packed_matrix_is_near_the_layers_own(packed):
    gram, principal = packed["matrices"]
    xtx, weight = packed["whole"]
    lengths = xtx.diagonal().sqrt()
    assert (gram - xtx / lengths[:, None] / lengths).abs().max() < 5e-4
    energy = (weight * (xtx @ weight)).sum()
    scaled = lengths[:, None] * weight
    directions = torch.linalg.eigh(weight.T @ xtx @ weight)[1][:, -OUTPUTS:]
    kept = scaled @ directions
    assert packed["share"] == pytest.approx(float((kept * (gram @ kept)).sum() / energy), rel=1e-3)
    assert float(principal.abs().max()) == 1.0


def test_inverse_equals_comp_libs(javascript, packed):
    answer = javascript("layer_worker.js", PREPARE + "return layer.inverse;", page_data(packed))
    gram, _ = packed["matrices"]
    expected, _ = spd_inverse(with_ridge(gram, RIDGE))
    assert torch.allclose(torch.tensor(answer, dtype=torch.float64).reshape(gram.shape), expected, atol=1e-10)


def test_inverse_refuses_a_matrix_that_has_none(javascript):
    body = """
    try { m.inverseOf(Float64Array.from(data), 2); } catch (error) { return error.message; }
    return "no error";
    """
    assert "positive definite" in javascript("condition.js", body, [1.0, 2.0, 2.0, 1.0])


SWEEP = """
const found = m.raceOne(layer, data.order, data.perRound, data.size - data.remove);
return { ...found, energy: layer.energy };
"""


@pytest.mark.parametrize("per_round", [PER_ROUND, 1, 8])
def test_sweep_equals_comp_libs(javascript, packed, per_round):
    data = page_data(packed) | {"order": None, "perRound": per_round, "remove": REMOVE}
    answer = javascript("layer_worker.js", PREPARE + SWEEP, data)
    gram, weight = packed["matrices"]
    expected = measure.price_sweep(gram, weight, REMOVE, per_round)
    energy = float((weight * (gram @ weight)).sum())
    assert answer["energy"] == pytest.approx(energy, rel=1e-12)
    assert answer["order"] == expected.order.tolist()
    assert answer["counts"] == expected.counts.tolist()
    assert answer["refitted"] == pytest.approx((expected.errors / energy).tolist(), rel=1e-9, abs=1e-14)


def test_race_equals_comp_libs(javascript, packed):
    """Energy's order, a random order, and errors without a refit, against least squares."""
    gram, weight = packed["matrices"]
    expected = measure.race(gram, weight, REMOVE, PER_ROUND)
    for name in ("price", "energy", "random"):
        order = {"price": "null", "energy": "m.energyOrder(layer)", "random": "data.random"}[name]
        body = f"{PREPARE} return m.raceOne(layer, {order}, data.perRound, data.size - data.remove);"
        data = page_data(packed) | {
            "random": expected["random_order"],
            "perRound": PER_ROUND,
            "remove": REMOVE,
        }
        answer = javascript("layer_worker.js", body, data)
        assert answer["counts"] == expected["counts"]
        assert answer["bare"] == pytest.approx(expected[name]["bare"], rel=1e-5), name
        assert answer["refitted"] == pytest.approx(expected[name]["refitted"], rel=1e-5), name


def test_prices_after_a_removal_by_hand(javascript, packed):
    gram, weight = packed["matrices"]
    removed = [5, 17, 2]
    body = f"{PREPARE} return m.pricesByHand(layer, data.removed);"
    answer = javascript("layer_worker.js", body, page_data(packed) | {"removed": removed})
    kept = [index for index in range(len(gram)) if index not in removed]
    refit = measure.least_squares(gram, gram @ weight, weight, torch.tensor(kept), RIDGE)
    gap = weight - refit
    energy = float((weight * (gram @ weight)).sum())
    assert answer["error"] == pytest.approx(float((gap * (gram @ gap)).sum()) / energy, rel=1e-9)
    inverse, _ = spd_inverse(with_ridge(gram, RIDGE)[kept][:, kept])
    expected = matrix_condition.scores_of(inverse.diagonal()[:, None, None], refit[kept]) / energy
    prices = [answer["prices"][index] for index in kept]
    assert prices == pytest.approx(expected.tolist(), rel=1e-9)
    assert [answer["prices"][index] for index in removed] == [None] * 3, "NaN for what is gone"


def test_prices_of_the_whole_layer(javascript, packed):
    gram, weight = packed["matrices"]
    answer = javascript("layer_worker.js", f"{PREPARE} return m.pricesByHand(layer, []);", page_data(packed))
    expected = measure.price_sweep(gram, weight, 1, 1).scores / float((weight * (gram @ weight)).sum())
    assert answer["prices"] == pytest.approx(expected.tolist(), rel=1e-9)
    assert answer["error"] == 0


@pytest.mark.parametrize(
    "arrows",
    [
        [[2, 0, 0], [2, 1, 0], [0, 0, 1]],  # lesson 02's toy
        [[4, 0, 0], [4, 2, 0], [0, 0, 0.3]],
        [[1, 2, 0], [2, 4, 0], [0, 0, 3]],  # one is twice the other
        [[1, 0, 0], [0, 1, 0], [1, 1, 0]],  # three in a plane
        [[0, 0, 0], [1, 1, 0], [0, 0, 1]],  # one writes nothing
    ],
)
def test_two_neurons_against_brute_force(javascript, arrows):
    body = """
    const gram = m.gramOfArrows(data);
    const worth = m.worthOf(gram);
    return { gram, worth, refits: data.map((_, gone) => m.refitOf(gram, [gone])) };
    """
    answer = javascript("arrows.js", body, arrows)
    matrix = torch.tensor(arrows, dtype=torch.float64)
    assert torch.allclose(torch.tensor(answer["gram"], dtype=torch.float64), matrix @ matrix.T)
    for removed, worth in enumerate(answer["worth"]):
        kept = [index for index in range(3) if index != removed]
        solution = torch.linalg.lstsq(matrix[kept].T, matrix[removed][:, None], driver="gelsd").solution[:, 0]
        left = float((matrix[removed] - solution @ matrix[kept]).square().sum())
        assert worth["price"] == pytest.approx(left, abs=1e-12)
        assert worth["energy"] == float(matrix[removed].square().sum())
        if left > 1e-9:
            assert worth["condition"] == pytest.approx((worth["energy"] / left) ** 0.5)
        factors = torch.tensor(answer["refits"][removed]["factors"], dtype=torch.float64)
        assert factors[removed] == 0
        lost = float(((1 - factors) @ matrix).square().sum())
        assert answer["refits"][removed]["error"] == pytest.approx(lost, abs=1e-12)
        assert lost == pytest.approx(left, abs=1e-12), "no factors are better"


def test_who_goes_in_lesson_02s_toy(javascript):
    body = """
    const { choices, fooled } = m.neuronsView(data, "none");
    return { choices, fooled };
    """
    quiet = javascript("part_neurons.js", body, [2, 0, 2, 1, 1])
    assert quiet == {"choices": {"energy": 2, "condition": 0, "price": 0}, "fooled": ["energy"]}
    loud = javascript("part_neurons.js", body, [4, 0, 4, 2, 0.3])
    assert loud == {"choices": {"energy": 2, "condition": 0, "price": 2}, "fooled": ["condition"]}


@pytest.fixture(scope="module")
def record(tiny_llama):
    """What benchmarks/hybrids.json says of a model, for a tiny one."""
    shape = Shape.of(tiny_llama())
    points = shape.neurons[0] // 8
    generator = torch.Generator().manual_seed(3)
    steps = torch.rand(shape.layer_count, points, generator=generator, dtype=torch.float64)
    curves = torch.cat([torch.zeros(shape.layer_count, 1), steps.cumsum(1) ** 2], dim=1)
    harm = torch.rand(shape.layer_count, generator=generator, dtype=torch.float64)
    return {"multiple": 8, "gone": 16, "kl": harm.tolist(), "curves": curves.tolist(), "greedy": [1]}


def test_the_prediction_of_widths_is_the_planners(javascript, record, tiny_llama):
    shape = Shape.of(tiny_llama())
    numbers = {
        "neurons": list(shape.neurons),
        "multiple": record["multiple"],
        "exponent": measure.HARM_EXPONENT,
        "removed": record["gone"],
        "harm": record["kl"],
        "curves": record["curves"],
    }
    removed = [8 * (index % 3) + index for index in range(shape.layer_count)]
    widths = [width - removed_count for width, removed_count in zip(shape.neurons, removed, strict=True)]
    body = "return m.predictedHarms(data.numbers, data.widths);"
    answer = javascript("widths.js", body, {"numbers": numbers, "widths": widths})
    assert answer == pytest.approx(measure.predicted_harms(record, removed), rel=1e-12)
    assert isinstance(measure.stored_harm(record), MeasuredHarm)


def test_the_share_that_is_removed_is_the_plans(javascript, tiny_llama):
    shape = Shape.of(tiny_llama())
    plan = PlanRequest(shape, 0.3, multiple=8, drop=[0]).plan_with((24,) * (shape.layer_count - 1))
    numbers = {
        "neurons": list(shape.neurons),
        "kv_groups": shape.kv_groups[0],
        "neuron_parameters": shape.neuron_parameters,
        "group_parameters": shape.group_parameters,
        "layer_parameters": shape.parameters_of_layer(0),
    }
    data = {"numbers": numbers, "widths": [0, *plan.neurons], "groups": shape.kv_groups[0]}
    answer = javascript("widths.js", "return m.removedShare(data.numbers, data.widths, data.groups);", data)
    assert answer == pytest.approx(plan.removed, rel=1e-12)


def test_losses_of_tokens_without_a_layer(tiny_llama, tokenizer):
    """Against whole models of which a layer is left out, or an MLP is silent at the first position."""
    model = tiny_llama()
    text = "The water cycle begins when the sun heats the sea."
    answer = measure.text_numbers(model, tokenizer, text, silenced=1)
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]

    def losses():
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, :-1].double()
        return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")

    assert answer["loss"] == pytest.approx(losses().tolist(), rel=2e-3)
    layers = layers_of(model)
    for index, layer in enumerate(layers):
        hook = layer.register_forward_hook(lambda module, inputs, output: inputs[0])
        assert answer["without"][index] == pytest.approx(losses().tolist(), rel=2e-3), index
        hook.remove()
    hook = layers[1].mlp.register_forward_hook(
        lambda module, inputs, output: output * (torch.arange(output.shape[1]) > 0)[None, :, None]
    )
    assert answer["silenced"] == pytest.approx(losses().tolist(), rel=2e-3)
    hook.remove()
    assert len(answer["norms"]) == len(layers) + 1
    assert len(answer["tokens"]) == tokens.shape[1]


def test_the_page_reads_attention_as_it_was_kept(javascript, tiny_llama, tokenizer):
    model = tiny_llama()
    tokens = tokenizer("one two three four", return_tensors="pt")["input_ids"]
    letters = measure.attention_maps(model, tokens)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(input_ids=tokens, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    body = "return data.letters.map((row) => data.positions.map((position) => m.attentionOf(row, position)));"
    positions = list(range(tokens.shape[1]))
    answer = javascript("part_tokens.js", body, {"letters": letters, "positions": positions})
    for layer, position in itertools.product(range(len(letters)), positions):
        expected = maps[layer][0].mean(0)[position, : position + 1]
        assert answer[layer][position] == pytest.approx(expected.tolist(), abs=1 / 500)


def test_every_module_is_in_the_page():
    import explore

    files = {path.name for path in Path(explore.HERE).glob("*.js")}
    assert files == set(explore.MODULES)
