"""Checks of what the reader writes in lesson 05.

On small layers brute force fits anew in each round, on the tokens. The loop walks a random model of three
layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from course.checking import Wrong, accept, alike, call, check_shape, checks, dense_layer, error_without, spot

Kept = list[Tensor]


# --- choose -------------------------------------------------------------------------------------------------


@checks("choose")
def check_choose(choose: Callable[..., Tensor]) -> None:
    """The neurons that stay after rounds, each fitted anew on the tokens."""
    for n, width, per_round in ((14, 4, 1), (14, 7, 3), (9, 9, 2)):
        x, w = dense_layer(n)
        xtx = x.T @ x
        try:
            answer = call(choose, xtx.clone(), w.clone(), width, 0.1, per_round)
        except Wrong as error:
            if "singular" in str(error):
                raise Wrong("a system that you solve is singular: is P updated before V? Both updates use "
                            "the P from before the round, so V goes first. Or did neurons go twice? Say in "
                            "`alive` that they went") from error  # fmt: skip
            raise
        right = rounds(xtx, w, width, per_round)
        if isinstance(answer, Tensor) and answer.dtype == torch.bool:
            raise Wrong("this says of each neuron whether it stays: return the numbers of those that stay")
        if isinstance(answer, Tensor) and answer.ndim == 1 and width < n == len(answer):
            raise Wrong("all neurons stay: `alive` must say which went")
        if isinstance(answer, Tensor) and answer.ndim == 1 and len(answer) not in (width, n - width):
            raise Wrong(
                f"{len(answer)} of {n} neurons stay, and {width} should: the last round removes fewer"
            )
        if isinstance(answer, Tensor) and sorted(answer.tolist()) == sorted({*range(n)} - {*right.tolist()}):
            raise Wrong("these neurons go: return those that stay")
        check_shape("K", answer, (width,))
        _name_the_mistake_of_choose(answer, xtx, w, width, per_round)
        if not torch.equal(answer, right):
            raise Wrong(f"of {n} neurons, {per_round} a round, {right.tolist()} stay; got {answer.tolist()}")
    accept("the same neurons stay as where each round inverts and refits anew")


def _name_the_mistake_of_choose(answer: Tensor, xtx: Tensor, w: Tensor, width: int, per_round: int) -> None:
    """Raises Wrong with a sentence of its own for the neurons that a usual mistake keeps."""
    right = rounds(xtx, w, width, per_round)
    if torch.equal(answer, right):
        return
    if torch.equal(answer.sort().values, right):
        raise Wrong("these are the right neurons, but not in ascending order")
    mistakes = {
        "each price is that of the first round: price those that are left again after each round": (
            False,
            False,
        ),
        "the prices use the rows of W in each round: after a round, V has new rows": (True, False),
        "V changes and P does not: after a round, P is the inverse for those that are left": (False, True),
    }
    for sentence, (new_inverse, new_rows) in mistakes.items():
        kept = _updated(xtx, w, width, per_round, new_inverse, new_rows)
        if torch.equal(answer.sort().values, kept):
            raise Wrong(sentence)
    if torch.equal(answer.sort().values, rounds(xtx, w, width, per_round, sign=-1)):
        raise Wrong("the dearest neurons went: the cheapest go")


def rounds(
    xtx: Tensor, w: Tensor, width: int, per_round: int, *, ridge: float = 0.1, sign: int = 1
) -> Tensor:
    """The neurons that stay, where each round inverts and refits anew; sign -1: the dearest go."""
    h = xtx + ridge * torch.diag(xtx.diagonal())
    kept = torch.arange(len(w))
    while len(kept) > width:
        inner_matrix = h[kept][:, kept]
        rows = torch.linalg.solve(inner_matrix, h[kept] @ w)
        order = (sign * rows.square().sum(1) / torch.linalg.inv(inner_matrix).diagonal()).argsort()
        kept = kept[order[min(per_round, len(kept) - width) :]].sort().values
    return kept


def _updated(xtx: Tensor, w: Tensor, width: int, per_round: int, new_inverse: bool, new_rows: bool) -> Tensor:
    """The neurons that stay, where P, or V, or both stay as they were before the first round."""
    inverse = torch.linalg.inv(xtx + 0.1 * torch.diag(xtx.diagonal()))
    rows, kept = w, torch.arange(len(w))
    while len(kept) > width:
        order = (rows.square().sum(1) / inverse.diagonal())[kept].argsort()
        count = min(per_round, len(kept) - width)
        leaving, kept = kept[order[:count]], kept[order[count:]].sort().values
        share = inverse[:, leaving] @ torch.linalg.inv(inverse[leaving][:, leaving])
        if new_rows:
            rows = rows - share @ rows[leaving]
        if new_inverse:
            inverse = inverse - share @ inverse[leaving]
    return kept


# --- refit --------------------------------------------------------------------------------------------------


@checks("refit")
def check_refit(refit: Callable[..., Tensor]) -> None:
    """The new rows with a pull to the old ones, against a fit on the tokens with rows added for the pull."""
    for n, ridge in ((6, 0.3), (9, 0.1)):
        x, w = dense_layer(n)
        xtx = x.T @ x
        kept, removed = torch.arange(n)[::2], torch.arange(n)[1::2]
        answer = call(refit, xtx.clone(), w.clone(), kept.clone(), ridge)
        if isinstance(answer, Tensor) and answer.shape == (len(kept), w.shape[1]):
            raise Wrong("V has the kept rows alone: it has all n rows, and those of removed neurons are zero")
        check_shape("V", answer, tuple(w.shape))
        inner, target, diagonal = xtx[kept][:, kept], xtx[kept] @ w, xtx.diagonal()[kept]
        pull = torch.diag(ridge * diagonal)
        solve = torch.linalg.solve
        spot(
            answer[kept],
            w[kept],
            "the kept rows are the old ones: the output to reach is that of all n neurons",
        )
        spot(answer[kept], solve(inner, target), "the pull is missing: this is the refit of lesson 02")
        sentence = "the pull stands on the left side alone, so it pulls to zero: it pulls to the old rows"
        spot(answer[kept], solve(inner + pull, target), sentence)
        even = ridge * torch.eye(len(kept), dtype=w.dtype)
        sentence = "each row is held alike: row i is held by lambda times entry i of the diagonal of C"
        spot(answer[kept], solve(inner + even, target + even @ w[kept]), sentence)
        if not (answer[removed] == 0).all():
            raise Wrong("a removed neuron has weights: its row of V is zero")
        rows = torch.diag((ridge * diagonal).sqrt())
        right = torch.linalg.lstsq(torch.cat([x[:, kept], rows]), torch.cat([x @ w, rows @ w[kept]])).solution
        if not alike(answer[kept], right):
            raise Wrong(f"lstsq on the tokens begins with {right[0, 0]:.4g}, V with {answer[kept[0], 0]:.4g}")
    accept("lstsq on the tokens, with a row for each pull, finds the same V")


# --- the loop -----------------------------------------------------------------------------------------------


@checks("comp")
def check_comp(comp: Callable[..., tuple[nn.Module, Kept]]) -> None:
    """The loop on a random model of three layers, against one that hooks into the model itself."""
    model, ids = _small_model()
    width, ridge = 20, 0.2
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    answer = call(comp, model, ids.clone(), width, ridge)
    after = model.state_dict()
    is_unchanged = after.keys() == before.keys() and all(
        after[name].shape == before[name].shape and torch.equal(after[name], before[name]) for name in before
    )
    _small_model.cache_clear()  # the next call makes it anew, whatever happened to this one
    if not is_unchanged:
        raise Wrong("the dense model was changed: cut the layers of `small`, the copy")
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        received = f"{len(answer)} things" if isinstance(answer, tuple | list) else type(answer).__name__
        raise Wrong(f"expected two things, the smaller model and the list of what stays, got {received}")
    small, kept = answer
    if not isinstance(small, nn.Module):
        raise Wrong(f"expected the smaller model first, got {type(small).__name__}")
    if not isinstance(kept, list | tuple) or len(kept) != 3:
        received = f"{len(kept)}" if isinstance(kept, list | tuple) else type(kept).__name__
        raise Wrong(f"expected a list with the neurons that stay in each of 3 layers, got {received}")
    for number, neurons in enumerate(kept):
        check_shape(f"the neurons that stay in layer {number}", neurons, (width,))
    downs = [layer.mlp.down_proj.weight for layer in small.model.layers]
    if all(down.shape[1] != width for down in downs):
        raise Wrong("no layer is narrower than before: cut each layer, with its new rows")
    if any(down.shape[1] != width for down in downs):
        raise Wrong("some layers are not cut: each is, from the first to the last")
    _name_the_mistake_of_comp(downs, kept, model, ids, width, ridge)
    right, right_kept = _walk(model, ids, width, ridge)
    for number, (down, neurons) in enumerate(zip(downs, kept, strict=True)):
        if not torch.equal(neurons, right_kept[number]):
            raise Wrong(f"layer {number} keeps other neurons than on what the smaller layers before it give")
        if not _close(down, right[number]):
            raise Wrong(f"layer {number} has other weights than a refit on what the smaller layers give")
    _check_precision(comp, model, ids, width, ridge)
    accept("each layer was watched behind the smaller layers before it, and refitted to what it will read")


def _check_precision(
    comp: Callable[..., tuple[nn.Module, Kept]], model: nn.Module, ids: Tensor, width: int, ridge: float
) -> None:
    """Raises Wrong for a loop that runs on double precision alone, which weights of a model do not have."""
    try:
        comp(copy.deepcopy(model).float(), ids.clone(), width, ridge)
    except Wrong as error:
        if "dtype" in str(error) or "Double" in str(error):
            raise Wrong("C is in double precision, and the weights of a model are not: write W as "
                        "`layer.mlp.down_proj.weight.T.double()`") from error  # fmt: skip
        raise


def _name_the_mistake_of_comp(
    downs: list[Tensor], kept: Kept, model: nn.Module, ids: Tensor, width: int, ridge: float
) -> None:
    """Raises Wrong with a sentence of its own if the weights are what a usual mistake gives."""
    mistakes = {
        "each layer was fitted to the stream of the dense layers: pass on after the cut": {
            "pass_on": "dense"
        },
        "the text never moved on: every layer reads the stream before the first": {"pass_on": "nothing"},
        "the attention was left out: pass the text through it before you watch the MLP": {"attention": False},
        "the layers are cut, and nothing is refitted": {"refit": False},
    }
    for sentence, changes in mistakes.items():
        wrong, wrong_kept = _walk(model, ids, width, ridge, **changes)
        same = all(torch.equal(mine, theirs) for mine, theirs in zip(kept, wrong_kept, strict=True))
        if same and all(map(_close, downs, wrong)):
            raise Wrong(sentence)


def _close(answer: Tensor, expected: Tensor) -> bool:
    return answer.shape == expected.shape and bool((answer - expected).norm() < 1e-5 * expected.norm())


@cache
def _small_model() -> tuple[nn.Module, Tensor]:
    """A random model of three layers in float64, and tokens (4, 12)."""
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=26,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=40,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = LlamaForCausalLM(config).double().eval()
        for tensor in model.parameters():
            tensor.requires_grad_(False)
            if tensor.ndim > 1:
                tensor.copy_(0.5 * torch.randn_like(tensor))
        return model, torch.randint(40, (4, 12))


def _walk(
    model: nn.Module,
    ids: Tensor,
    width: int,
    ridge: float,
    *,
    pass_on: str = "small",
    attention: bool = True,
    refit: bool = True,
) -> tuple[list[Tensor], Kept]:
    """down_proj of each layer after COMP, and what stays: the layers themselves run, watched by hooks."""
    small = copy.deepcopy(model)
    layers = small.model.layers
    h = small.model.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    rotary = small.model.rotary_emb(h, positions)
    mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf, dtype=h.dtype).triu(1)[None, None]
    run = partial(_run, position_embeddings=rotary, attention_mask=mask)
    kept: Kept = []
    for layer in layers:
        dense = copy.deepcopy(layer)
        after, x = run(layer, h) if attention else _mlp_alone(layer, h)
        x = (x / after.norm(dim=-1, keepdim=True)).flatten(0, 1)
        xtx, w = x.T @ x, layer.mlp.down_proj.weight.T.clone()
        stays = rounds(xtx, w, width, 32, ridge=ridge)
        mlp = layer.mlp
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight = nn.Parameter(linear.weight[stays], requires_grad=False)
        pull = torch.diag(ridge * xtx.diagonal()[stays])
        rows = torch.linalg.solve(xtx[stays][:, stays] + pull, xtx[stays] @ w + pull @ w[stays])
        mlp.down_proj.weight = nn.Parameter((rows if refit else w[stays]).T, requires_grad=False)
        kept.append(stays)
        if pass_on != "nothing":
            through = dense if pass_on == "dense" else layer
            h = run(through, h)[0] if attention else _mlp_alone(through, h)[0]
    return [layer.mlp.down_proj.weight for layer in layers], kept


def _run(layer: nn.Module, h: Tensor, **arguments: object) -> tuple[Tensor, Tensor]:
    """The stream behind a layer, and what its down_proj read."""
    read: list[Tensor] = []
    hook = layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    out = layer(h, **arguments)
    hook.remove()
    return (out[0] if isinstance(out, tuple) else out), read[0]


def _mlp_alone(layer: nn.Module, h: Tensor) -> tuple[Tensor, Tensor]:
    """The same without the attention."""
    mlp, states = layer.mlp, layer.post_attention_layernorm(h)
    x = mlp.act_fn(mlp.gate_proj(states)) * mlp.up_proj(states)
    return h + mlp.down_proj(x), x


# --- KV groups ----------------------------------------------------------------------------------------------


@checks("group_prices")
def check_group_prices(group_prices: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """The price of each block of columns: what lstsq leaves on the tokens without the block."""
    for n, size in ((6, 2), (12, 3), (5, 1)):
        x, w = dense_layer(n)
        inverse = torch.linalg.inv(x.T @ x)
        blocks = torch.arange(n).split(size)
        right = torch.tensor([error_without(x, w, block.tolist()) for block in blocks], dtype=x.dtype)
        answer = call(group_prices, inverse.clone(), w.clone(), size)
        if isinstance(answer, Tensor) and answer.shape == (n,) and size > 1:
            raise Wrong(f"expected one price for each group of {size} columns, got one for each column")
        check_shape("the prices", answer, (len(blocks),))
        if size > 1:
            _name_the_mistake_of_prices(answer, inverse, w, x, size)
        if not alike(answer, right):
            raise Wrong(
                f"without the first {size} columns lstsq leaves {right[0]:.4g}; "
                f"the price says {answer[0]:.4g}"
            )
    accept("each price is what lstsq leaves when all columns of that group go together")


def _name_the_mistake_of_prices(answer: Tensor, inverse: Tensor, w: Tensor, x: Tensor, size: int) -> None:
    """Raises Wrong with a sentence of its own for prices that a usual mistake gives."""
    blocks = torch.arange(len(w)).split(size)
    single = w.square().sum(1) / inverse.diagonal()

    def each(price: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([price(block) for block in blocks])

    sentence = (
        "these are sums of single prices: columns that go together cannot replace each other, "
        "so the block of P is inverted as a whole"
    )
    spot(answer, each(lambda g: single[g].sum()), sentence)
    sentence = "the block of P is not inverted: one over P_ii became the inverse of a block"
    spot(answer, each(lambda g: (w[g] * (inverse[g][:, g] @ w[g])).sum()), sentence)
    sentence = "this is the energy of each group: no other group stands in"
    xtx = x.T @ x
    spot(answer, each(lambda g: (w[g] * (xtx[g][:, g] @ w[g])).sum()), sentence)
    sentence = "the columns of a group stand side by side: the first `size` are the first group"
    apart = [torch.arange(start, len(w), len(blocks)) for start in range(len(blocks))]
    far = torch.stack([(w[g] * torch.linalg.solve(inverse[g][:, g], w[g])).sum() for g in apart])
    spot(answer, far, sentence)
    sentence = "this takes the root: a price is a squared size"
    spot(answer, each(lambda g: (w[g] * torch.linalg.solve(inverse[g][:, g], w[g])).sum().sqrt()), sentence)


# --- the verdict --------------------------------------------------------------------------------------------


LEFT_OF_ZERO = (-0.3, -0.1)
RIGHT_OF_ZERO = (0.1, 0.3)
AROUND_ZERO = (-0.2, 0.1)
UP_TO_ZERO = (-0.2, 0.0)
VERDICTS = {  # (interval, whether the variant adds the idea) -> the word; all other intervals hold 0
    (LEFT_OF_ZERO, True): "earns",
    (RIGHT_OF_ZERO, True): "costs",
    (LEFT_OF_ZERO, False): "costs",
    (RIGHT_OF_ZERO, False): "earns",
}


@checks("verdict")
def check_verdict(verdict: Callable[[float, float, bool], str]) -> None:
    """The word for an interval on each side of 0 and around it, for ideas that are added and taken away."""
    answers = {}
    for interval in (LEFT_OF_ZERO, RIGHT_OF_ZERO, AROUND_ZERO, UP_TO_ZERO):
        for adds in (True, False):
            answer = call(verdict, *interval, adds)
            if not isinstance(answer, str) or answer not in ("earns", "costs", "not found"):
                raise Wrong(f'expected "earns", "costs" or "not found", got {answer!r}')
            answers[interval, adds] = answer
    if all(answers[case] != word for case, word in VERDICTS.items()):
        raise Wrong(
            "each word is turned round: a variant that adds the idea and lies left of 0 earns, it loses less"
        )
    if all(answers[interval, True] == answers[interval, False] for interval, _ in VERDICTS):
        raise Wrong("`adds` changes nothing: where the idea is taken away, right of 0 speaks for it")
    if answers[AROUND_ZERO, True] != "not found" or answers[AROUND_ZERO, False] != "not found":
        raise Wrong('an interval from -0.2 to 0.1 holds 0: "not found"')
    for (interval, adds), answer in answers.items():
        right = VERDICTS.get((interval, adds), "not found")
        if answer != right:
            way = "adds the idea" if adds else "takes the idea away"
            low, high = interval
            raise Wrong(f'from {low} to {high}, and the variant {way}: expected "{right}", got "{answer}"')
    accept("the word follows the side of 0, and which way the variant changes the idea")
