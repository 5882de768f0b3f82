"""A pruned model learns again what its parent answers, through a few small matrices.

Pruning here takes no gradients. What it costs to take some afterwards, and what that brings, is for the user to weigh.
The parent's own answers teach, on text that it wrote, so no data is needed (self-distillation):

    L = sum_t KL(p_t || q_t),     p_t, q_t: next token after x_1 ... x_t, by the parent, by the pruned model,
    dL / dz_t = q_t - p_t,        z_t the logits of the pruned model.

Only low-rank changes of the dense layers are trained (LoRA, Hu et al., arXiv 2106.09685), and added at the end:

    W' = W + (alpha / r) B A,     A (r, n) random, B (m, r) = 0 at the start: nothing is changed before the first step.

The parent is needed once, for what its head reads, and is let go before the training begins. The vocabulary is wide, so
logits exist for a few tokens at a time, and their gradient goes back to what the head reads before the next few come.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..calibration.stream import LOGITS, attention_step, embed, mlp_step, rotary, through, to_device
from ..errors import InputError, check_package
from ..families import family_of
from ..families.protocol import Model
from ..report import PeakMemory, Progress, no_progress
from ..system import cache, hashes
from ..system.machine import cache_folder

TOKENS = 512  # on their way through the layers at once: what backpropagation has to remember grows with them
HELD = 8  # sequences that do not teach: on them the divergence is judged, before and after
SAVED = 10  # steps after which the state is kept, for a run that is cut off
WARM = 0.1  # of the steps, in which the rate grows; then it falls to 0 in a straight line
LONGEST = 1.0  # of a step's gradient


@dataclass(frozen=True)
class Healing:
    """What a training is asked to do."""

    steps: int = 100
    batch: int = 4  # sequences in a step
    rank: int = 8  # r
    alpha: int = 16
    rate: float = 1e-3  # of AdamW, at its highest
    seed: int = 0

    def check(self, sequences: int) -> None:
        """Raises InputError for numbers that cannot be, or too few sequences of text."""
        for name, value in asdict(self).items():
            if not (value >= 0 if name == "seed" else 0 < value < math.inf):
                raise InputError(f"expected {name} above 0, and finite, got {value}: choose another one")
        if self.rate > 1:
            raise InputError(f"expected a rate of at most 1, got {self.rate:g}: 0.001 is usual")
        if sequences < HELD + self.batch:
            wanted = f"at least {HELD + self.batch} sequences: {HELD} to judge by and {self.batch} for a step"
            raise InputError(f"expected {wanted}, got {sequences}: ask for more")


@dataclass(frozen=True)
class Healed:
    """What a training did: divergence from the parent on sequences that did not teach, nats per token."""

    before: float
    after: float
    steps: int
    tokens: int  # that taught, each time they did
    trained: int  # numbers
    peak_megabytes: float  # resident memory of the process


def check_installed() -> None:
    """Raises InputError unless peft is there."""
    check_package("peft", "peft, which brings LoRA", "pip install 'comp-lib[heal]'")


@torch.no_grad()
def answers(parent: Model, ids: Tensor, progress: Progress = no_progress) -> Tensor:
    """What the parent's head reads for each token: ids (S, L) -> (S, L, d). Its layers are gone afterwards."""
    family = family_of(parent)
    layers, hidden = family.layers(parent), embed(parent, ids)
    rope = rotary(parent, ids.shape[1], hidden.device, hidden.dtype)
    for place, layer in enumerate(layers, 1):
        hidden = through(layer, hidden, rope, hidden.device)
        progress("parent", place, len(layers))
    family.set_layers(parent, [])
    return family.final_norm(parent, hidden)


def heal(
    model: Model, ids: Tensor, parent: Model, wanted: Tensor, healing: Healing, progress: Progress = no_progress
) -> Healed:
    """Train `model`, which is changed, on ids (S, L) towards what `parent`, a head without layers, makes of `wanted`.

    The last HELD sequences do not teach. A run that was cut off goes on from the last state in the cache folder, with
    the same result to the bit. Raises InputError as `Healing.check` does, without peft, and where it does not converge.
    """
    healing.check(len(ids))
    check_installed()
    import peft

    family = family_of(model)
    device = family.embedding(model).weight.device
    # pruning leaves a model that shares tensors with its parent
    family.set_layers(model, [to_device(layer, device, own=True) for layer in family.layers(model)])
    memory, places = PeakMemory(), _order(len(ids) - HELD, healing)
    what = [*map(hashes.of_model, (model, parent)), *map(hashes.of_tensor, (ids, wanted))]
    key = [*what, asdict(healing), [torch.__version__, peft.__version__, str(device), hashes.of_code("healing")]]
    state = cache_folder() / "healing" / f"{hashes.of_value(key)[:24]}.safetensors"
    goal, held = _Goal(model, parent, ids, wanted), torch.arange(len(ids))[-HELD:]
    before = goal.judge(held)
    config = peft.LoraConfig(r=healing.rank, lora_alpha=healing.alpha, lora_dropout=0.0, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # A is drawn from the global state
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about how peft calls it
        torch.manual_seed(healing.seed)
        adapted = peft.get_peft_model(model, config)
    matrices = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(matrices, healing.rate)
    done = _restore(optimizer, matrices, cache.fetch(state))
    for step in range(done, healing.steps):
        optimizer.zero_grad()
        for rows in places[step].split(max(1, TOKENS // ids.shape[1])):
            goal.backward(rows, healing.batch)
        nn.utils.clip_grad_norm_(matrices, LONGEST)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, healing)
        optimizer.step()
        memory.megabytes()
        if (step + 1) % SAVED == 0 and step + 1 < healing.steps:
            cache.store(state, _kept(optimizer, matrices, step + 1))
        progress("healing", step + 1, healing.steps)
    adapted.merge_and_unload()
    model.requires_grad_(False)
    after = goal.judge(held)
    state.unlink(missing_ok=True)
    if not math.isfinite(after):
        raise InputError(f"expected a training that converges, got a divergence of {after}: lower the rate")
    trained, tokens = sum(map(Tensor.numel, matrices)), healing.steps * healing.batch * ids.shape[1]
    return Healed(before, after, healing.steps, tokens, trained, memory.megabytes())


def rate(step: int, healing: Healing) -> float:
    """Learning rate of a step: up in a straight line for WARM of the steps, then down to almost 0."""
    warm = max(1, round(WARM * healing.steps))
    return healing.rate * min((step + 1) / warm, (healing.steps - step) / max(1, healing.steps - warm))


def divergence(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    goal: Callable[[int, int], Tensor],
    rows: int,
    gradient: Tensor | None = None,
) -> float:
    """Sum over tokens of KL(p || q), in nats.

    states (T, d) are what `head` makes logits of, `rows` tokens at a time; `goal(start, end)` gives log p of those
    tokens, (end - start, V). `gradient` (T, d), where given, is filled with that of the sum by `states`.
    """
    total = 0.0
    for start in range(0, len(states), rows):
        some = states[start : start + rows].detach().requires_grad_(gradient is not None)
        q = head(some).float().log_softmax(-1)
        value = nn.functional.kl_div(q, goal(start, start + len(some)), reduction="sum", log_target=True)
        if gradient is not None:
            gradient[start : start + rows] = torch.autograd.grad(value, some)[0]
        total += value.item()
    return total


@dataclass
class _Goal:
    """The parent's answers on some text, and how far the model's are from them."""

    model: Model
    parent: Model
    ids: Tensor  # (S, L)
    wanted: Tensor  # (S, L, d), what the parent's head reads

    def __post_init__(self) -> None:
        self.family = family_of(self.model)
        self.device = self.family.embedding(self.model).weight.device
        self.rope = rotary(self.model, self.ids.shape[1], self.device, torch.float32)

    def _states(self, rows: Tensor) -> Tensor:
        """What the model's head reads: (tokens, d)."""
        hidden = embed(self.model, self.ids[rows])
        for layer in self.family.layers(self.model):
            hidden = mlp_step(layer, attention_step(layer, hidden, self.rope)[0])[0]
        return self.family.final_norm(self.model, hidden).flatten(0, 1)

    def _divergence(self, states: Tensor, rows: Tensor, gradient: Tensor | None = None) -> float:
        wanted = self.wanted[rows].flatten(0, 1)

        @torch.no_grad()
        def goal(start: int, end: int) -> Tensor:
            logits = family_of(self.parent).head(self.parent, wanted[start:end])
            return logits.float().log_softmax(-1)

        step = max(1, LOGITS // self.model.config.vocab_size)
        return divergence(lambda some: self.family.head(self.model, some), states, goal, step, gradient)

    def backward(self, rows: Tensor, batch: int) -> None:
        """Add the gradient of the mean divergence over the tokens of a step of `batch` sequences."""
        states = self._states(rows)
        gradient = torch.empty_like(states)
        self._divergence(states, rows, gradient)
        states.backward(gradient / (batch * self.ids.shape[1]))

    @torch.no_grad()
    def judge(self, rows: Tensor) -> float:
        """Mean divergence on these sequences, nats per token."""
        parts = rows.split(max(1, TOKENS // self.ids.shape[1]))
        return sum(self._divergence(self._states(part), part) for part in parts) / self.ids[rows].numel()


def _order(sequences: int, healing: Healing) -> Tensor:
    """Which sequences teach in each step, (steps, batch): all of them before any comes again."""
    generator, wanted = torch.Generator().manual_seed(healing.seed), healing.steps * healing.batch
    rounds = [torch.randperm(sequences, generator=generator) for _ in range(-(-wanted // sequences))]
    return torch.cat(rounds)[:wanted].view(healing.steps, healing.batch)


def _kept(optimizer: torch.optim.AdamW, matrices: list[nn.Parameter], step: int) -> dict[str, Tensor]:
    """All that decides how a training goes on."""
    kept = {"step": torch.tensor(step)}
    for place, matrix in enumerate(matrices):
        moments = optimizer.state[matrix]
        kept |= {f"{place}.value": matrix.detach()}
        kept |= {f"{place}.{name}": moments[name] for name in ("exp_avg", "exp_avg_sq")}
    return kept


@torch.no_grad()
def _restore(optimizer: torch.optim.AdamW, matrices: list[nn.Parameter], kept: dict[str, Tensor] | None) -> int:
    """Steps that were done when `kept` was."""
    if kept is None:
        return 0
    for place, matrix in enumerate(matrices):
        matrix.copy_(kept[f"{place}.value"])
        moments = {name: kept[f"{place}.{name}"].to(matrix.device) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[matrix] = {"step": kept["step"].float(), **moments}
    return int(kept["step"])
