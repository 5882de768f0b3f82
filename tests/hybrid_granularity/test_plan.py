"""Plans: budget arithmetic, COMP's planners, and JSON that survives a person's hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.plan import FLOOR_SHARE, Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import parameter_budget, uniform_plan
from comp_lib.pruning.methods import METHODS
from comp_lib.pruning.planning import why_more_was_removed
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError

quick = settings(derandomize=True, deadline=None, max_examples=80)


def shape_of(neurons, kv_groups) -> Shape:
    """A decoder of hidden size 32, head size 8, two query heads to a group, and a vocabulary of 500."""
    return Shape(
        hidden_size=32,
        head_dim=8,
        group_heads=2,
        neurons=tuple(neurons),
        kv_groups=tuple(kv_groups),
        neuron_parameters=3 * 32,
        group_parameters=2 * 8 * 32 + 2 * 2 * 8 * 32,
        fixed_parameters=(2 * 32,) * len(neurons),
        other_parameters=500 * 32 + 32,
    )


EVEN_SHAPE = shape_of([128] * 4, [2] * 4)
shapes = st.integers(1, 6).flatmap(
    lambda layers: st.one_of(
        st.integers(1, 200).map(lambda n: shape_of([n] * layers, [2] * layers)),
        st.lists(st.integers(1, 200), min_size=layers, max_size=layers).map(
            lambda n: shape_of(n, [2] * layers)
        ),
    )
)
budgets = {
    "ratio": st.floats(0.01, 0.95),
    "multiple": st.sampled_from([1, 7, 16, 64]),
    "kv_groups": st.sampled_from([None, 1, 2]),
}


def parameters(shape: Shape, plan: Plan) -> int:
    """Parameters of the layers that `plan` leaves, counted by hand, apart from Shape's own sums."""
    return sum(n * 96 + g * 1536 + 64 for n, g in zip(plan.neurons, plan.kv_groups, strict=True))


def narrowest(full: int, multiple: int) -> int:
    """The narrowest that a layer may become: a tenth, in whole multiples, but one multiple at least."""
    tenth = int((full * FLOOR_SHARE + 1e-6) // multiple) * multiple
    return max(tenth, min(multiple, full))


def check_budget(shape: Shape, plan: Plan, multiple: int) -> None:
    full = [shape.neurons[layer] for layer in plan.layers]
    removed_parameters = shape.decoder_parameters - parameters(shape, plan)
    assert plan.removed == pytest.approx(removed_parameters / shape.decoder_parameters, abs=1e-12)
    assert plan.removed >= plan.ratio
    for kept, full_width in zip(plan.neurons, full, strict=True):
        assert narrowest(full_width, multiple) <= kept <= full_width
        assert kept == full_width or kept % multiple == 0
    if plan.neurons != tuple(full):
        wider = tuple(
            min(kept + multiple, full_width) for kept, full_width in zip(plan.neurons, full, strict=True)
        )
        assert removed(shape, plan.layers, wider, plan.kv_groups) < plan.ratio, "a multiple was wasted"


@settings(quick, max_examples=20)
@given(shape=shapes, ratio=st.floats(0.01, 0.95), kv_groups=st.sampled_from([None, 1, 2]))
def test_the_multiple_is_the_coarsest_whose_excess_is_tolerated(shape, ratio, kv_groups):
    request = Settings(ratio, kv_groups=kv_groups).completed().plan_request(shape)

    def excess(multiple: int) -> float:
        """Share of the decoder that goes beyond the ratio; 1 where no plan of that multiple reaches it."""
        try:
            return (
                1 - parameter_budget(replace(request, multiple=multiple)) / shape.decoder_parameters - ratio
            )
        except InputError:
            return 1.0

    def fits(multiple: int) -> bool:
        return excess(multiple) <= (0.02 if multiple == 32 else 0.005)

    assert request.multiple in (1, 2, 4, 8, 16, 32, 64)
    assert fits(request.multiple) or request.multiple == 1
    assert not any(fits(2**power) for power in range(request.multiple.bit_length(), 7))


def test_the_multiple_is_the_same_for_all_methods_and_the_users_own_stays():
    shape = shape_of([1536] * 6, [3] * 6)
    for method in (
        "comp",
        "wanda-sp",
        *(name for name, method in METHODS.items() if method.planner not in ("comp", "shortgpt")),
    ):
        requests = [
            Settings(0.21, method, recovery=recovery).completed().plan_request(shape)
            for recovery in ("none", "bias")
        ]
        assert [request.multiple for request in requests] == [32, 32], method
    assert Settings(0.21, multiple=64).completed().plan_request(shape).multiple == 64


@pytest.mark.parametrize(
    ("options", "removed", "reason"),
    [
        ({"method": "shortgpt", "recovery": "none"}, 0.25, "nothing but whole layers"),
        ({"multiple": 64}, 0.22, "multiples of 64: multiple 16 comes nearer"),
        ({"multiple": 32}, 0.22, ": multiple 8 comes nearer, but most GGUF files need 32"),
        ({"multiple": 2}, 0.22, ": multiple 1 comes nearer"),
        ({}, 0.22, "no finer step"),
    ],
)
def test_a_plan_that_removes_more_than_was_asked_says_why(options, removed, reason):
    plan = replace(uniform_plan(PlanRequest(EVEN_SHAPE, 0.2)), removed=removed)
    explanation = why_more_was_removed(plan, Settings(0.2, **options), EVEN_SHAPE)
    assert reason in explanation
    assert f"{removed:.1%} went" in explanation


@pytest.mark.parametrize(("layers", "groups"), [((0, 2, 3), 2), ((0, 1, 2, 3), 1)])
def test_what_went_whole_is_named_before_a_multiple(layers, groups):
    """A GGUF file has a multiple in each run, also where no width is the reason."""
    plan = replace(
        uniform_plan(PlanRequest(EVEN_SHAPE, 0.05)),
        layers=layers,
        neurons=(128,) * len(layers),
        kv_groups=(groups,) * len(layers),
    )
    assert plan.removed_share(EVEN_SHAPE) > plan.ratio
    explanation = why_more_was_removed(plan, Settings(0.05, multiple=32), EVEN_SHAPE)
    assert "layers or KV groups that go are larger" in explanation


def removed(shape: Shape, layers, neurons, groups) -> float:
    """Share of the decoder that goes where only `layers` stay, with so many neurons and KV groups each."""
    drop = sorted({*range(shape.layer_count)} - {*layers})
    return PlanRequest(shape, 0.5, drop=drop).removed_share(neurons, groups)


def largest_removable(shape: Shape, layers, kv_groups, multiple: int) -> float:
    """Share of the decoder that goes where each of `layers` is as narrow as a plan may make it."""
    groups = tuple(kv_groups or shape.kv_groups[layer] for layer in layers)
    return removed(shape, layers, [narrowest(shape.neurons[layer], multiple) for layer in layers], groups)


@quick
@given(shape=shapes, drops=st.sets(st.integers(0, 5)), **budgets)
def test_uniform_plan_meets_any_budget_and_no_more(shape, drops, ratio, multiple, kv_groups):
    drop = sorted(layer for layer in drops if layer < shape.layer_count)
    assume(len(drop) < shape.layer_count)
    layers = [layer for layer in range(shape.layer_count) if layer not in drop]
    try:
        plan = uniform_plan(
            PlanRequest(shape, ratio, drop=drop, kv_groups=kv_groups, multiple=multiple, parent="it")
        )
    except InputError as error:
        assert "allow" in str(error)
        assert largest_removable(shape, layers, kv_groups, multiple) < ratio
        return
    check_budget(shape, plan, multiple)
    assert plan.layers == tuple(layers)
    assert plan.dropped == tuple(drop)
    assert plan.kv_groups == (kv_groups or 2,) * len(layers)
    assert (plan.parent, plan.parent_layers, plan.ratio) == ("it", shape.layer_count, ratio)
    if len(set(shape.neurons)) == 1:
        assert len(set(plan.neurons)) == 1
    assert plan.kept_neurons is None
    assert plan.kept_groups is None


@quick
@given(
    shape=shapes,
    drops=st.sets(st.integers(0, 5)),
    importance=st.lists(st.floats(-1.0, 5.0), min_size=6, max_size=6),
    **budgets,
)
def test_paper_plan_meets_any_budget_and_keeps_more_of_important_layers(
    shape, drops, importance, ratio, multiple, kv_groups
):
    drop = sorted(layer for layer in drops if layer < shape.layer_count)
    assume(len(drop) < shape.layer_count)
    layers = [layer for layer in range(shape.layer_count) if layer not in drop]
    importance = importance[: shape.layer_count]
    try:
        plan = paper_plan(
            PlanRequest(shape, ratio, drop=drop, kv_groups=kv_groups, multiple=multiple), importance
        )
    except InputError as error:
        assert "allow" in str(error)
        assert largest_removable(shape, layers, kv_groups, multiple) < ratio
        return
    check_budget(shape, plan, multiple)
    assert plan.layers == tuple(layers)
    if len(set(shape.neurons)) == 1:
        by_importance = sorted(range(len(layers)), key=lambda i: importance[layers[i]])
        widths = [plan.neurons[i] for i in by_importance]
        assert widths == sorted(widths)


def test_paper_plan_shares_are_inverse_to_importance():
    shape = shape_of([1000] * 3, [2] * 3)
    plan = paper_plan(PlanRequest(shape, 0.2, multiple=1), [1.0, 2.0, 4.0])
    lost = [1000 - n for n in plan.neurons]
    assert lost[0] == pytest.approx(2 * lost[1], abs=4)
    assert lost[1] == pytest.approx(2 * lost[2], abs=4)
    assert lost[2] > 50


def test_paper_plan_starves_no_layer():
    plan = paper_plan(PlanRequest(EVEN_SHAPE, 0.5, multiple=8), [1e-9, 1.0, 1.0, 1.0])
    assert plan.neurons[0] == 8  # a tenth of 128, in whole multiples
    assert plan.removed >= 0.5
    assert min(plan.neurons[1:]) > 8
    # exactly a tenth, though 120 * (1 - 0.9) is a little less than 12
    request = PlanRequest(shape_of([120] * 4, [2] * 4), 0.4, multiple=1)
    assert paper_plan(request, [1e-9, 1.0, 1.0, 1.0]).neurons[0] == 12


def test_paper_plan_with_equal_importance_is_the_uniform_plan():
    request = PlanRequest(EVEN_SHAPE, 0.3, multiple=8)
    assert paper_plan(request, [0.7] * 4) == uniform_plan(request)


def test_dropped_layers_count_towards_the_budget():
    plan = uniform_plan(PlanRequest(EVEN_SHAPE, 0.2, drop=[2, 1], multiple=16))
    assert plan.neurons == (128, 128)
    assert plan.removed == 0.5
    assert (plan.layers, plan.dropped) == ((0, 3), (1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "between 0 and 1.*got 0"),
        ({"ratio": 1.0}, "between 0 and 1.*got 1"),
        ({"ratio": -0.2}, "between 0 and 1.*got -0.2"),
        ({"ratio": float("nan")}, "between 0 and 1.*got nan"),
        ({"ratio": 0.95}, r"at most 0\.\d+, got 0.95: drop layers or KV groups"),
        ({"multiple": 0}, "multiple of at least 1, got 0"),
        ({"kv_groups": 0}, "1 to 2 KV groups.*got 0"),
        ({"kv_groups": 3}, "1 to 2 KV groups.*got 3"),
        ({"drop": [0, 1, 2, 3]}, "fewer than 4 layers"),
        ({"drop": [4]}, r"0 to 3, got \[4\]"),
        ({"drop": [-1]}, r"0 to 3, got \[-1\]"),
    ],
)
@pytest.mark.parametrize("planner", ["uniform", "paper"])
def test_bad_budgets_are_refused_by_name(planner, options, message):
    options = {"ratio": 0.2, **options}
    ratio = options.pop("ratio")
    with pytest.raises(InputError, match=message) as error:
        request = PlanRequest(EVEN_SHAPE, ratio, **options)
        if planner == "uniform":
            uniform_plan(request)
        else:
            paper_plan(request, [1.0] * 4)
    assert "\n" not in str(error.value)


# JSON

PLAN = Plan(
    parent="some/model",
    parent_layers=4,
    layers=(0, 3),
    neurons=(3, 2),
    kv_groups=(1, 2),
    ratio=0.2,
    removed=0.25,
    kept_neurons=((0, 4, 9), (1, 2)),
    kept_groups=((1,), (0, 1)),
)


def test_the_names_of_what_stays_may_be_deleted_by_hand():
    fields = json.loads(PLAN.to_json())
    for name in ("kept_neurons", "kept_groups"):
        del fields[name]
    assert Plan.from_json(json.dumps(fields)) == replace(PLAN, kept_neurons=None, kept_groups=None)
    del fields["neurons"]
    with pytest.raises(InputError, match="one with 'neurons' missing or unknown"):
        Plan.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    "plan",
    [PLAN, replace(PLAN, kept_neurons=None, kept_groups=None), uniform_plan(PlanRequest(EVEN_SHAPE, 0.3))],
)
def test_json_round_trip(plan, tmp_path):
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(InputError, match="a file that can be written.*missing.*make its folder first"):
        plan.save(tmp_path / "missing" / "plan.json")
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_json_is_readable():
    lines = PLAN.to_json().splitlines()
    assert len(lines) == len(Plan.__dataclass_fields__) + 2, "one line for each field"
    assert '  "neurons": [3, 2],' in lines
    assert json.loads(PLAN.to_json())["layers"] == [0, 3]


def test_lists_are_as_good_as_tuples():
    edited = replace(
        PLAN, neurons=list(PLAN.neurons), kept_neurons=[list(kept) for kept in PLAN.kept_neurons]
    )
    assert edited == PLAN
    assert hash(edited) == hash(PLAN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "plan as JSON.*save it anew"),
        ("[" * 10**5, "plan as JSON"),
        (f'{{"ratio": {"9" * 5000}}}', "plan as JSON"),
        ("[]", "a plan as JSON, with"),
        ('{"parent": "x"}', "a plan as JSON, with"),
        (json.dumps(json.loads(PLAN.to_json()) | {"color": "red"}), "a plan as JSON, with"),
    ],
)
def test_text_that_is_no_plan_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("create", "message"),
    [(lambda path: None, "No such file"), (lambda path: path.write_bytes(b"\xff\xfe{}"), "utf-8")],
)
def test_a_file_that_holds_no_plan_is_refused(tmp_path, create, message):
    create(tmp_path / "plan.json")
    with pytest.raises(InputError, match=f"expected a file with a plan.*{message}"):
        Plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, "ascending layer indices below 4"),
        ({"layers": [3, 0]}, r"ascending layer indices below 4, got \[3, 0\]"),
        ({"layers": [0, 0]}, "ascending layer indices"),
        ({"layers": [0, 4]}, "ascending layer indices below 4"),
        ({"layers": [-1, 0]}, r"ascending layer indices below 4, got \[-1, 0\]"),
        ({"layers": ["0", "3"]}, "whole numbers in layers"),
        ({"layers": 2}, "whole numbers in layers, got 2"),
        ({"layers": None}, "whole numbers in layers"),
        ({"parent_layers": "4"}, "whole numbers in parent_layers"),
        ({"neurons": [3]}, "2 entries in neurons, got 1"),
        ({"neurons": [3, 2, 1]}, "2 entries in neurons, got 3"),
        ({"neurons": None}, "whole numbers in neurons"),
        ({"neurons": [3.5, 2]}, "whole numbers in neurons"),
        ({"neurons": [True, 2]}, "whole numbers in neurons"),
        ({"neurons": [0, 2], "kept_neurons": None}, "a neuron and a KV group in each layer"),
        ({"kv_groups": [0, 1], "kept_groups": None}, "a neuron and a KV group in each layer"),
        ({"kv_groups": [1]}, "2 entries in kv_groups, got 1"),
        ({"kept_neurons": [[0, 4, 9]]}, "2 entries in kept_neurons, got 1"),
        ({"kept_neurons": 7}, "2 entries in kept_neurons, got 7"),
        ({"kept_neurons": [7, 8]}, "whole numbers in kept_neurons"),
        (
            {"kept_neurons": [[0, 4], [1, 2]]},
            "3 ascending indices in kept_neurons of layer 0, got \\[0, 4\\]",
        ),
        ({"kept_neurons": [[0, 4, 9], [2, 1]]}, "2 ascending indices in kept_neurons of layer 3"),
        ({"kept_neurons": [[0, 4, 9], [1, 1]]}, "2 ascending indices in kept_neurons of layer 3"),
        ({"kept_groups": [[-1], [0, 1]]}, "1 ascending indices in kept_groups of layer 0"),
        ({"parent": None}, "a name as parent, got None"),
        ({"parent": ["x"]}, "a name as parent"),
        ({"ratio": "a fifth"}, "a number as ratio, from 0 to 1, got 'a fifth'"),
        ({"ratio": float("nan")}, "a number as ratio, from 0 to 1, got nan"),
        ({"ratio": True}, "a number as ratio, from 0 to 1, got True"),
        ({"ratio": -0.1}, "a number as ratio, from 0 to 1, got -0.1"),
        ({"removed": None}, "a number as removed, from -1 to 1, got None"),
        ({"removed": False}, "a number as removed, from -1 to 1, got False"),
        ({"removed": -1.1}, "a number as removed, from -1 to 1, got -1.1"),
        ({"layers": 10**300}, "whole numbers in layers"),
    ],
)
def test_plans_that_contradict_themselves_are_refused(change, message):
    with pytest.raises(InputError, match=message) as error:
        Plan.from_json(json.dumps(json.loads(PLAN.to_json()) | change))
    assert "\n" not in str(error.value)


def test_biases_may_weigh_more_than_what_goes():
    assert replace(PLAN, removed=-0.1).removed == -0.1


STRANGE_VALUES = (None, True, -1, 10**6, 1e999, "x", [], [[]], [None], [0.5], [[0, 0]], {"a": 1})

SENSIBLE_VALUES = {  # field -> those of STRANGE_VALUES that it may have
    "parent": ["x"],
    "parent_layers": [10**6],
    "removed": [-1],
    "kept_neurons": [None],
    "kept_groups": [None],
}


@pytest.mark.parametrize("name", Plan.__dataclass_fields__)
def test_no_value_of_any_field_is_more_than_a_refusal(name):
    accepted = []
    for strange in STRANGE_VALUES:
        text = json.dumps(json.loads(PLAN.to_json()) | {name: strange})
        try:
            plan = Plan.from_json(text)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert plan == replace(PLAN, **{name: strange})
            accepted.append(strange)
    assert accepted == SENSIBLE_VALUES.get(name, [])
