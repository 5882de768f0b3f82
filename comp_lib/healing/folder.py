"""From a pruned folder and its parent to a healed folder, which loads wherever the pruned one did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibration.tokens import calibration_tokens, check_source
from ..errors import InputError
from ..models.load import load_model, open_model
from ..models.reading import quiet
from ..models.save import CARD_FILE, PLAN_FILE, check_destination, estimated_bytes, shareable
from ..models.skeleton import skeleton
from ..report import Progress, no_progress
from ..shape import Shape
from ..system.atomic import resolved, staged
from ..system.machine import free_memory
from ..system.tensor_files import LARGEST
from .distil import Healed, Healing, answers, check_installed, heal

MEASURED = "## Measured perplexity"
PROBE = "It rained.\n\ndef f(x):\n    return 12 * x  # ¿qué?"


@dataclass(frozen=True)
class Teaching:
    """What the parent teaches on."""

    source: str = "written"
    sequences: int = 128
    length: int = 256


def heal_folder(
    model: str | Path,
    parent: str | Path,
    folder: str | Path,
    healing: Healing,
    teaching: Teaching,
    *,
    overwrite: bool = False,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Healed:
    """Heal `model`, a pruned folder, by `parent`, from which it came, and write the result to `folder`.

    The training computes in float32; the folder keeps the dtype of the pruned one. It appears complete or not at all.
    Raises InputError, before any work, without peft, for numbers that cannot be, for a parent of another vocabulary or
    shape, too little memory, and for a folder that cannot be written; later for too little text, and for a training
    that does not converge.
    """
    healing.check(teaching.sequences)
    check_source(teaching.source)
    check_installed()
    check_destination(folder, overwrite, sources=[model, parent])
    place, config, tokenizer = open_model(model)
    _, parent_config, parent_tokenizer = open_model(parent)
    outline, dense = skeleton(config), skeleton(parent_config)
    shape, parent_shape = Shape.of(outline), Shape.of(dense)
    _check_kin(shape, parent_shape, (config, parent_config), (tokenizer, parent_tokenizer))
    longest = min(each.max_position_embeddings for each in (config, parent_config))
    if teaching.length > longest:
        got = f"{teaching.length:,}: shorten it"
        raise InputError(f"expected a --length of at most {longest:,} tokens, which is what the model takes, got {got}")
    states = teaching.sequences * teaching.length * shape.hidden
    needed = 4 * (states + max(parent_shape.total, 2 * shape.total))  # the parent is let go before the training
    if needed > (free := free_memory()):
        got = f"{free / 1e9:.1f} GB: close something, or heal on a larger machine"
        raise InputError(f"expected {needed / 1e9:.1f} GB of free memory to heal {model}, got {got}")
    check_destination(folder, overwrite, estimated_bytes(shape, outline.dtype), [model, parent])
    teacher, _ = load_model(parent, device=device)
    ids = calibration_tokens(
        teaching.source,
        parent_tokenizer,
        model=teacher,
        sequences=teaching.sequences,
        length=teaching.length,
        seed=healing.seed,
        progress=progress,
    )
    wanted = answers(teacher, ids, progress)
    small, _ = load_model(model, device=device)
    result = heal(small, ids, teacher, wanted, healing, progress)
    with staged(resolved(folder)) as partial:
        with quiet():
            small.to(outline.dtype).save_pretrained(partial, max_shard_size=LARGEST)
            tokenizer.save_pretrained(partial)
        if (place / PLAN_FILE).is_file():
            (partial / PLAN_FILE).write_bytes((place / PLAN_FILE).read_bytes())
        card = (place / CARD_FILE).read_text("utf-8", errors="replace") if (place / CARD_FILE).is_file() else ""
        (partial / CARD_FILE).write_text(_card(card, resolved(folder).name, str(parent), result, teaching), "utf-8")
    return result


def _check_kin(shape: Shape, parent: Shape, configs: tuple[Any, Any], tokenizers: tuple[Any, Any]) -> None:
    """Raises InputError unless the one can have been pruned from the other."""
    sizes = {
        "a vocabulary": tuple(config.vocab_size for config in configs),
        "a stream": (shape.hidden, parent.hidden),
        "a head": (shape.head_dim, parent.head_dim),
    }
    for what, (own, other) in sizes.items():
        if own != other:
            got = f"one of {other:,}: name the model that was pruned"
            raise InputError(f"expected the parent of the pruned model, with {what} of {own:,}, got {got}")
    widest = [max(values) for values in (shape.neurons, shape.kv_groups)]
    most = [max(values) for values in (parent.neurons, parent.kv_groups)]
    if shape.layers > parent.layers or any(own > other for own, other in zip(widest, most, strict=True)):
        got = f"{parent.layers} layers of at most {most[0]:,} neurons: is it the other way round?"
        raise InputError(f"expected a parent with at least {shape.layers} layers of {widest[0]:,} neurons, got {got}")
    own, other = (tokenizer(PROBE, add_special_tokens=False)["input_ids"] for tokenizer in tokenizers)
    if own != other:
        wanted = "a parent whose tokenizer cuts text as that of the pruned model does"
        raise InputError(f"expected {wanted}, got another one: name the model that was pruned")


def _card(card: str, name: str, parent: str, result: Healed, teaching: Teaching) -> str:
    """The card of the pruned model, with a section on what was done to it."""
    section = f"""\
## Healed

Trained for {result.steps} steps on {result.tokens:,} tokens of `{shareable(teaching.source)}` towards the answers of \
{shareable(parent)} (LoRA, {result.trained:,} numbers, added to the weights). Divergence from it on text of that kind \
that did not teach, nats per token: {result.before:.3f} before, {result.after:.3f} after.
"""
    if "\n## Licence" not in card:
        return f"{card}\n{section}" if card else f"# {name}\n\n{section}"
    before, after = card.replace(f"{MEASURED}\n", f"{MEASURED}, before healing\n").rsplit("\n## Licence", 1)
    return f"{before}\n{section}\n## Licence{after}"
