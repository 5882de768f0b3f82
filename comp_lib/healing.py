"""Healing: a pruned model learns again what its parent answers, through a few numbers folded into its weights.

The parent's own answers teach, on text that it wrote, so no data is needed (self-distillation):

    L = sum_t KL(p_t || q_t),     p_t, q_t: next token after x_1 ... x_t, by the parent, by the pruned model,
    dL / dz_t = q_t - p_t,        z_t the logits of the pruned model.

What is trained is folded into the weights at the end; before the first step it changes nothing. Either low-rank changes
of all linears in the layers ("lora"; Hu et al., arXiv 2106.09685),

    W' = W + (alpha / r) B A,     A (r, n) random, B (m, r) = 0 at the start,

or a factor for each neuron, each input of o_proj, and each channel of the norms ("scales", our choice of where):

    x_i' = (1 + s_i) x_i,         s = 0 at the start; for a norm with gain g = c + w that is w' = w + g s.

One sequence at a time passes through both models: with a wide vocabulary, its logits are the largest tensors here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .calibration.tokens import calibration_tokens, text_hashes
from .errors import InputError, suggestion
from .families import layers_of, parts
from .families.protocol import STEPS, Model
from .models.load import load_model, open_model
from .models.save import PLAN_FILE, Provenance, calibrated_on, check_destination, save_checkpoint, shareable
from .plan import Plan
from .planning import check_length
from .progress import Progress, no_progress
from .shape import Shape

HELD = 8  # sequences that do not teach: they judge before and after, and end a training of scales
WARM = 0.1  # of the steps, in which the rate grows; then it falls to 0 in a straight line
LONGEST = 1.0  # of a step's gradient
RATES = {"lora": 1e-3, "scales": 5e-3}  # of AdamW, at its highest
CHECKED = 25  # steps after each of which a training of scales ends unless the divergence on those has fallen
Trainable = tuple[Model, list[nn.Parameter], Callable[[], Model]]
"""A copy of a model, what is trained in it, and what folds that into the weights and returns the model."""


@dataclass(frozen=True)
class Healing:
    """What a training is asked to do."""

    tune: str = "lora"  # or "scales"
    steps: int = 100
    batch: int = 4  # sequences in a step
    rank: int = 8  # r
    alpha: int = 16
    rate: float | None = None  # None: that of RATES
    seed: int = 0
    sequences: int = 128  # of text, for `heal_folder`
    length: int = 256  # tokens in each
    force: bool = False  # whether `heal_folder` saves even what got worse

    def __post_init__(self) -> None:
        if self.tune not in RATES:
            raise InputError(
                f"expected --tune as lora or scales, got {self.tune!r}: {suggestion(self.tune, RATES)}"
            )

    @property
    def highest(self) -> float:
        """The learning rate at its highest."""
        return RATES[self.tune] if self.rate is None else self.rate


class Healed(NamedTuple):
    """A healed model; divergence from the parent on sequences that did not teach, nats per token."""

    model: Model
    before: float
    after: float


def heal(
    model: Model, ids: Tensor, parent: Model, healing: Healing = Healing(), progress: Progress = no_progress
) -> Healed:
    """Train a copy of `model` on ids (S, L) towards the answers of `parent`. The last HELD sequences do not teach.

    Raises InputError for too few sequences, and where the training does not converge.
    """
    if len(ids) < HELD + healing.batch:
        wanted = (
            f"at least {HELD + healing.batch} sequences: {HELD} to judge by and {healing.batch} for a step"
        )
        raise InputError(f"expected {wanted}, got {len(ids)}: ask for more")
    adapted, trained, folded = (_low_rank if healing.tune == "lora" else _scales)(model, healing)
    taught, held = ids[:-HELD], ids[-HELD:]
    best = before = _mean_divergence(adapted, parent, held)
    kept = [each.detach().clone() for each in trained]
    optimizer = torch.optim.AdamW(trained)
    for step in range(healing.steps):
        optimizer.zero_grad()
        for place in range(
            step * healing.batch, (step + 1) * healing.batch
        ):  # all of them before any comes again
            (_divergence(adapted, parent, taught[place % len(taught)]) / healing.batch).backward()
        nn.utils.clip_grad_norm_(trained, LONGEST)
        optimizer.param_groups[0]["lr"] = rate(step, healing)
        optimizer.step()
        progress("healing", step + 1, healing.steps)
        if healing.tune == "scales" and ((step + 1) % CHECKED == 0 or step + 1 == healing.steps):
            if not (now := _mean_divergence(adapted, parent, held)) < best:
                for each, old in zip(trained, kept, strict=True):
                    each.data.copy_(old)
                break
            best, kept = now, [each.detach().clone() for each in trained]
    healed = folded().requires_grad_(False)
    after = _mean_divergence(healed, parent, held)
    if not math.isfinite(after):
        raise InputError(f"expected a training that converges, got a divergence of {after}: lower the rate")
    return Healed(healed, before, after)


def _low_rank(model: Model, healing: Healing) -> Trainable:
    import peft

    config = peft.LoraConfig(
        r=healing.rank, lora_alpha=healing.alpha, lora_dropout=0.0, target_modules="all-linear"
    )
    with torch.random.fork_rng(devices=[]):  # A is drawn from the global state
        torch.manual_seed(healing.seed)
        adapted = peft.get_peft_model(copy.deepcopy(model), config)  # pruning shares tensors with the parent
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    return adapted, trained, adapted.merge_and_unload


def _scales(model: Model, healing: Healing) -> Trainable:
    model = copy.deepcopy(model).requires_grad_(False)
    linears = [parts(layer)[which].linear for layer in layers_of(model) for which in STEPS]
    norms = [
        each for each in model.modules() if type(each).__name__.endswith("Norm") and [*each.parameters()]
    ]
    inputs = {each: nn.Parameter(torch.zeros_like(each.weight[0])) for each in linears}
    gains = {each: nn.Parameter(torch.zeros_like(each.weight)) for each in norms}
    hooks = [each.register_forward_pre_hook(lambda own, x: (x[0] * (1.0 + inputs[own]),)) for each in inputs]
    hooks += [each.register_forward_hook(lambda own, x, y: y * (1.0 + gains[own])) for each in gains]

    @torch.no_grad()
    def folded() -> Model:
        for hook in hooks:
            hook.remove()
        for linear, s in inputs.items():
            linear.weight.mul_(1.0 + s)
        for norm, s in gains.items():
            signs, bias = torch.ones_like(norm.weight), getattr(norm, "bias", None)
            signs[
                ..., 1::2
            ] = -1.0  # mean 0 and mean square 1, so that what comes out is the gain, and a bias
            gain = (norm(signs) - (0.0 if bias is None else bias)) * signs
            norm.weight.add_(gain * s)
            if bias is not None:
                bias.mul_(1.0 + s)
        return model

    return model, [*inputs.values(), *gains.values()], folded


def divergence(logits: Tensor, parent: Tensor) -> Tensor:
    """Mean over tokens of KL(p || q), nats: logits z of q (T, V) and of p (T, V) -> ()."""
    q, p = (each.float().log_softmax(-1) for each in (logits, parent))
    return nn.functional.kl_div(q, p, reduction="sum", log_target=True) / len(q)


def rate(step: int, healing: Healing) -> float:
    """Learning rate of a step: up in a straight line for WARM of the steps, then down to almost 0."""
    warm = max(1, round(WARM * healing.steps))
    return healing.highest * min((step + 1) / warm, (healing.steps - step) / max(1, healing.steps - warm))


def _divergence(model: Model, parent: Model, row: Tensor) -> Tensor:
    ids = row[None].to(parent.device)
    with torch.no_grad():
        answers = parent(input_ids=ids, use_cache=False).logits[0]
    return divergence(model(input_ids=ids, use_cache=False).logits[0], answers)


@torch.no_grad()
def _mean_divergence(model: Model, parent: Model, ids: Tensor) -> float:
    return sum(_divergence(model, parent, row).item() for row in ids) / len(ids)


def heal_folder(
    model: str | Path,
    parent: str | Path,
    folder: str | Path,
    healing: Healing = Healing(),
    *,
    source: str = "written",
    overwrite: bool = False,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Healed:
    """Heal `model`, a folder that `comp-lib prune` wrote, by `parent`, on text of `source`.

    The training computes in float32; `folder` gets the dtype of the pruned one. Of `model` its weights, its tokenizer
    and its plan are read, and nothing is copied. Raises InputError, before any work, for a parent that cannot be
    one, and for what `save_checkpoint` refuses; after it, unless `healing.force`, for a model that got no better on the
    sequences that did not teach.
    """
    hashes = text_hashes(source)
    outline, files, tokenizer = open_model(model)
    check_destination(
        folder, overwrite, Shape.of(outline).total * outline.dtype.itemsize, files.place, parent
    )
    check_length(outline, healing.length)
    plan = Plan.load(files.place / PLAN_FILE)
    (teacher, _), (small, _) = load_model(parent, device=device), load_model(model, device=device, copies=2)
    dense = Shape.of(teacher)
    ours = (outline.config.vocab_size, Shape.of(outline).hidden, plan.parent_layers)
    theirs = (teacher.config.vocab_size, dense.hidden, dense.layers)
    if ours != theirs:
        expected = "the parent, with {:,} tokens, a stream {} numbers wide and {} layers".format(*ours)
        raise InputError(
            "expected {}, got {:,}, {} and {}: name the model that was pruned".format(expected, *theirs)
        )
    size: dict[str, Any] = {"sequences": healing.sequences, "length": healing.length, "seed": healing.seed}
    ids = calibration_tokens(source, tokenizer, model=teacher, **size, progress=progress)
    done = heal(small, ids, teacher, healing, progress)
    if done.after >= done.before and not healing.force:
        got = f"{done.before:.4f} before and {done.after:.4f} after: lower --rate, raise --sequences, or say --force"
        raise InputError(
            f"expected less divergence from {shareable(parent)} on text that did not teach, got {got}"
        )
    text = f"what the card of {shareable(model)} says, then healed on {healing.sequences} x {healing.length} tokens of "
    text += f"{shareable(source)} towards the parent's answers: divergence {done.before:.3f} before, {done.after:.3f} "
    hashes = *calibrated_on(files.place), *hashes
    unused = ("rank", "alpha") if healing.tune == "scales" else ()
    told = {name: value for name, value in vars(healing).items() if name not in unused} | {
        "rate": healing.highest
    }
    card = Provenance(str(parent), dense, f"{text}nats per token after", told, hashes=hashes)
    save_checkpoint(folder, done.model.to(outline.dtype), tokenizer, plan, card, overwrite=overwrite)
    return done
