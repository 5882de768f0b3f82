"""`Pruned`: what `comp.prune` returns. It prints as a table and saves itself as a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import check_switch, check_type, known_keywords
from .families.types import CausalLM
from .plan import Plan
from .report import Report
from .shape import Shape
from .system.files import hide_folders

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pruned:
    """A pruned model, with its plan and report: what `prune` returns."""

    model: CausalLM
    """The smaller model."""
    plan: Plan
    """Names the neurons and KV groups that stay."""
    report: Report
    """Says what happened to each layer."""
    parent_shape: Shape
    """The shape of the parent."""
    shape: Shape
    """The shape of `model`, as pruning left it."""

    def __str__(self) -> str:
        """A line about what was removed, and the report as a table."""
        before = self.parent_shape
        after = self.shape
        line = (
            f"{self.plan.removed:.1%} of the decoder removed: {after.total_parameters:,} parameters of "
            f"{before.total_parameters:,}, {after.layer_count} layers of {before.layer_count}"
        )
        return f"{line}\n{self.report}"

    __repr__ = __str__  # what a notebook shows

    @known_keywords()
    def save(self, out: str | Path, tokenizer: PreTrainedTokenizerBase, *, overwrite: bool = False) -> Path:
        """Write the smaller model to the folder `out`, with its plan and a model card, and return the folder.

        The numbers are saved in the dtype of `model`. `load_model` reads the folder.

        Args:
            tokenizer: of the model; it is saved, too.
            overwrite: whether an earlier pruned model in `out` may be replaced.

        Raises InputError, before anything is written, for a folder that has files in it.
        """
        from .calibration.texts import check_tokenizer
        from .models.card import Provenance
        from .models.save import save_checkpoint

        check_type("out", out, "the name of a folder", example="build/small")
        check_tokenizer(tokenizer)
        check_switch("overwrite", overwrite)
        text = f"{self.report.token_count:,} tokens"
        parent_name = self.plan.parent or hide_folders(self.model.name_or_path) or "a model"
        settings = self.report.settings.stated(plan_given=self.report.plan_given)
        provenance = Provenance(parent_name, self.parent_shape, text, settings)
        return save_checkpoint(out, self.model, tokenizer, self.plan, provenance, overwrite=overwrite)
