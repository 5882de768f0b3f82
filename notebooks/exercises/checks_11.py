"""Checks for the wrap-up: answers about Gemma 3, graded by what the model itself says.

Numbers are compared within a tolerance, choices by their letter. Where the model is not installed, a check
says in one line what to install, and grades nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from comp_lib.checkpoints.load import load_model
from comp_lib.decoder.shape import Shape
from comp_lib.utils.errors import InputError
from course.checking import Wrong, accept, call, check_number

GEMMA = "gemma3-270m"
RATIO = 0.2
TEXT = (
    "The tide comes in twice a day. Each time it lifts the boats in the harbour by about two metres, "
    "and the people on the quay hardly notice, because it takes six hours. A stranger who leaves a bag "
    "on the lowest step will notice. Nobody plans around the clock here. They plan around the table of "
    "tides that hangs in the window of the baker, and whoever wants to cross to the island on foot asks him "
    "first."
)
LAYERS = {"a": 2, "b": 5, "c": 8, "d": 14}  # letter -> layer, of questions 7 and 8
TOLERANCE = 0.01


@cache
def _loaded() -> tuple[Any, Tensor]:
    """Gemma 3 and the tokens (1, L) of the text. Raises InputError where it is not installed."""
    model, tokenizer = load_model(GEMMA)
    return model, tokenizer(TEXT, return_tensors="pt")["input_ids"]


def gemma() -> tuple[Any, Tensor] | None:
    """Gemma 3 and the tokens (1, L) of a short text; without it None, and a line says what to install."""
    try:
        return _loaded()
    except InputError as error:
        print(f"Not graded: {error}")
        return None


def _grade_number(
    name: str,
    function: Callable[[], float],
    right: Callable[[Shape], float],
    mistakes: dict[str, Callable[[Shape], float]],
    praise: str,
) -> None:
    """Grades a number within 1%; `mistakes` has sentences, and what each mistake gives."""
    answer = call(function)
    check_number(name, answer)
    opened = gemma()
    if opened is None:
        return
    shape = Shape.of(opened[0])
    if _near(answer, right(shape)):
        accept(praise)
        return
    for sentence, mistake in mistakes.items():
        if _near(answer, mistake(shape)):
            raise Wrong(sentence)
    raise Wrong(f"{name} is not {answer:,g}: read the shapes in the first cell once more")


def _near(answer: float, right: float) -> bool:
    """Whether a number is right within the tolerance; 0 has to be met."""
    return abs(answer - right) <= TOLERANCE * abs(right)


def _grade_letter(
    name: str,
    function: Callable[[], str],
    letters: str,
    right: Callable[[Any, Tensor], str],
    sentence: Callable[[str, str], str],
    praise: str,
) -> None:
    """Grades a letter; `sentence` says of a wrong one (and the right one) what is wrong with it."""
    answer = call(function)
    if not isinstance(answer, str) or answer.strip().lower() not in letters or len(answer.strip()) != 1:
        raise Wrong(f"expected one of the letters {', '.join(letters)} for {name}, got {answer!r}")
    opened = gemma()
    if opened is None:
        return
    letter, right_letter = answer.strip().lower(), right(*opened)
    if letter != right_letter:
        raise Wrong(sentence(letter, right_letter))
    accept(praise)


def check_neuron(parameters_of_a_neuron: Callable[[], float]) -> None:
    """Question 1."""
    _grade_number(
        "the number of parameters",
        parameters_of_a_neuron,
        lambda shape: shape.neuron_parameters,
        {
            "these are a row of gate and one of up: the neuron's column of down goes too": (
                lambda shape: 2 * shape.hidden_size
            ),
            "this is one vector: a neuron has one in each of three matrices": lambda shape: shape.hidden_size,
            "this is a neuron of SmolLM2: its stream is narrower": lambda shape: 1728,
        },
        "a row of gate, a row of up, a column of down, as in SmolLM2",
    )


def check_group(neurons_for_a_group: Callable[[], float]) -> None:
    """Question 2."""
    _grade_number(
        "the number of neurons",
        neurons_for_a_group,
        lambda shape: shape.group_parameters / shape.neuron_parameters,
        {
            "these are k and v alone: the query heads that read them go too, in q and in o": (
                lambda shape: 2 * shape.head_dim * shape.hidden_size / shape.neuron_parameters
            ),
            "one query head was counted: all that share the key head go": (
                lambda shape: 4 * shape.head_dim * shape.hidden_size / shape.neuron_parameters
            ),
            "these are the parameters: divide by those of a neuron": lambda shape: shape.group_parameters,
            "o is missing: each query head has columns there": (
                lambda shape: (
                    (2 + shape.group_heads) * shape.head_dim * shape.hidden_size / shape.neuron_parameters
                )
            ),
        },
        "a KV group weighs two fifths of the whole MLP",
    )


def check_groups_to_spare(groups_to_spare: Callable[[], float]) -> None:
    """Question 3."""
    _grade_number(
        "the number of KV groups",
        groups_to_spare,
        lambda shape: shape.kv_groups[0] - 1,
        {
            "an attention without a KV group is none: one has to stay": lambda shape: shape.kv_groups[0],
            "these are query heads: they go with their key head, or not at all": (
                lambda shape: shape.kv_groups[0] * shape.group_heads - 1
            ),
        },
        "the only KV group of a layer stays. In Gemma 3 neurons and whole layers are left to remove",
    )


def _removed(shape: Shape) -> float:
    """Parameters that a plan removes."""
    return RATIO * shape.decoder_parameters


def check_neurons_to_remove(neurons_to_remove: Callable[[], float]) -> None:
    """Question 4."""

    def right(shape: Shape) -> float:
        return _removed(shape) / shape.layer_count / shape.neuron_parameters

    _grade_number(
        "the number of neurons",
        neurons_to_remove,
        right,
        {
            "this is a fifth of the neurons: attention and norms stay, so the neurons pay for them too": (
                lambda shape: RATIO * shape.neurons[0]
            ),
            "these are the neurons that stay": lambda shape: shape.neurons[0] - right(shape),
            "this is a fifth of the whole model: the embedding is no part of the decoder": (
                lambda shape: RATIO * shape.total_parameters / shape.layer_count / shape.neuron_parameters
            ),
            "these are the neurons of all layers together": lambda shape: shape.layer_count * right(shape),
        },
        "more than a quarter of the neurons go, to remove a fifth of the decoder",
    )


def check_share(share_of_all: Callable[[], float]) -> None:
    """Question 5."""

    def right(shape: Shape) -> float:
        return 100 * _removed(shape) / shape.total_parameters

    _grade_number(
        "the share in percent",
        share_of_all,
        right,
        {
            "this is the share of the decoder: the embedding counts among all parameters": (
                lambda shape: 100 * RATIO
            ),
            "in percent, please: this is the share itself": lambda shape: right(shape) / 100,
            "this is the decoder's share of all parameters: a fifth of it goes": lambda shape: (
                right(shape) / RATIO
            ),
        },
        "with 262,144 tokens the embedding is most of this model, and pruning does not touch it",
    )


def check_after_down(after_down: Callable[[], str]) -> None:
    """Question 6."""
    sentences = {
        "a": "so it is in SmolLM2: print a layer of this model, and read its forward",
        "c": "the activation comes before the last matrix of the MLP, not after it",
        "d": "the gate multiplies inside the MLP, before its last matrix",
    }
    _grade_letter(
        "what follows",
        after_down,
        "abcd",
        lambda model, _: "b" if hasattr(model.model.layers[0], "post_feedforward_layernorm") else "a",
        lambda letter, _: sentences.get(letter, "there is no norm here"),
        "so the error of the down projection is not yet that of the stream: the norm rescales each token",
    )


def _influences(model: Any, ids: Tensor) -> dict[str, float]:
    """Block influence of the four layers."""
    with torch.no_grad():
        states = torch.stack(model(input_ids=ids, output_hidden_states=True).hidden_states)
    turned = 1 - torch.cosine_similarity(states[:-1], states[1:], dim=-1).mean((1, 2))
    return {letter: float(turned[layer]) for letter, layer in LAYERS.items()}


def _losses(model: Any, ids: Tensor) -> dict[str, float]:
    """The loss without each of the four layers."""
    losses = {}
    for letter, layer in LAYERS.items():
        hook = model.model.layers[layer].register_forward_hook(_skip)
        try:
            with torch.no_grad():
                losses[letter] = float(model(input_ids=ids, labels=ids).loss)
        finally:
            hook.remove()
    return losses


def _skip(module: Any, arguments: tuple, output: Any) -> Any:
    """A hook in which a layer leaves the stream as it is."""
    return (arguments[0], *output[1:]) if isinstance(output, tuple) else arguments[0]


def check_least_influence(least_influence: Callable[[], str]) -> None:
    """Question 7."""

    def right(model: Any, ids: Tensor) -> str:
        influences = _influences(model, ids)
        return min(influences, key=influences.__getitem__)

    def sentence(letter: str, _: str) -> str:
        influences = _influences(*_opened())
        if letter == max(influences, key=influences.__getitem__):
            return f"layer {LAYERS[letter]} has the *most* influence of the four: it is 1 minus a cosine"
        return f"layer {LAYERS[letter]} has a block influence of {influences[letter]:.4f}: another has less"

    _grade_letter("the layer", least_influence, "abcd", right, sentence, "this layer turns the states least")


def check_least_missed(least_missed: Callable[[], str]) -> None:
    """Question 8."""

    def right(model: Any, ids: Tensor) -> str:
        losses = _losses(model, ids)
        return min(losses, key=losses.__getitem__)

    def sentence(letter: str, right_letter: str) -> str:
        influences, losses = _influences(*_opened()), _losses(*_opened())
        if letter == min(influences, key=influences.__getitem__):
            return "this is the proxy's choice once more: skip each of the four, and measure the loss"
        more = losses[letter] - losses[right_letter]
        return f"without layer {LAYERS[letter]} the loss is {more:.2f} nats higher than without another one"

    _grade_letter(
        "the layer",
        least_missed,
        "abcd",
        right,
        sentence,
        "on these tokens. The proxy chose another. That is one short text, and no verdict: take 8 windows",
    )


def _opened() -> tuple[Any, Tensor]:
    """The model and the tokens, where a check has found that they are here."""
    opened = gemma()
    assert opened is not None
    return opened


def check_hybrid(neurons_beside_a_layer: Callable[[], float]) -> None:
    """Question 9."""

    def left_to_pay(shape: Shape) -> float:
        return _removed(shape) - shape.parameters_of_layer(0)

    def right(shape: Shape) -> float:
        return left_to_pay(shape) / (shape.layer_count - 1) / shape.neuron_parameters

    def with_its_mlp_alone(shape: Shape) -> float:
        mlp = shape.neurons[0] * shape.neuron_parameters
        return (_removed(shape) - mlp) / (shape.layer_count - 1) / shape.neuron_parameters

    _grade_number(
        "the number of neurons",
        neurons_beside_a_layer,
        right,
        {
            "the layer that goes has paid a part already: take its parameters off what has to go": (
                lambda shape: _removed(shape) / (shape.layer_count - 1) / shape.neuron_parameters
            ),
            "the whole layer goes, its attention and its norms too": with_its_mlp_alone,
            "one layer fewer is there to get narrower": (
                lambda shape: left_to_pay(shape) / shape.layer_count / shape.neuron_parameters
            ),
            "these are the neurons that stay": lambda shape: shape.neurons[0] - right(shape),
        },
        "one layer buys the others about seven neurons in a hundred. Only a measurement says which is better",
    )
