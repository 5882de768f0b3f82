"""COMP: post-training structured pruning of LLaMA-class language models, without gradients.

The method (Xu et al., arXiv 2501.15255; the derivation is ours) drops whole decoder layers, then those
neurons of the other layers that their neighbours can best reproduce. Then it refits the kept weights to the
output that the layer had.

    from comp_lib import Calibration, Settings, evaluate, load_model, prune

    model, tokenizer = load_model("smollm2-135m")
    ids = Calibration("general", sequences=128).tokens(tokenizer, model=model)  # (128, 256)
    pruned = prune(model, ids, Settings(ratio=0.2))  # .model, .plan and .report
    evaluate(pruned.model, tokenizer, parent=model).mean.increase  # of the loss, over eight kinds of text

`prune_model("smollm2-135m", "build/small")` does that from disk to disk: it saves the pruned model and
returns a verdict on it.

Where to read on: `comp` is the method on one page, `prune_layer` its five phases for one layer, `planning`
decides how much each layer loses. The paper's ideas are folders: `importance` (what is removed),
`hybrid_granularity` (how much), `recovery` (the refit), and `statistics` (the sums over tokens that all of
them use). `decoder` is a model as the method reads it, `walk` a text on its way through it, `families` finds
the parts of a decoder layer; `disk` prunes layer by layer from files to files. The rest is calibration,
baselines, models, evaluation, gguf, compare, healing, analysis, plots, system and cli.

Importing this package is cheap: the names below are looked up on first use, so torch is loaded only when
needed.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` looks up, for type checkers and editors
    from .calibration.texts import load_text
    from .calibration.windows import Calibration
    from .comp import prune
    from .disk.from_disk import SavedModel
    from .disk.heal_folder import HealedFolder, heal_folder
    from .disk.prune_model import prune_model
    from .disk.verdict import Verdict
    from .errors import InputError, NoNumber, OutOfReach
    from .evaluation.by_kind import ComparisonByText, EvaluationByText, evaluate
    from .evaluation.confidence import Intervals
    from .evaluation.loss import ComparedEvaluation, Comparison, Evaluation, Measures
    from .healing import HealingResult, HealingSettings, heal
    from .importance.neurons import keep_highest, metric
    from .importance.problem import Problem, Selection
    from .models.export import export_gguf
    from .models.load import load_model
    from .models.padded import export_padded
    from .plan import Plan
    from .progress import Progress, log_lines
    from .pruned import Pruned
    from .report import LayerReport, Report
    from .settings import PRESETS, CompleteSettings, Settings
    from .shape import Shape
    from .statistics.sums import Statistics

try:
    __version__ = version("comp-lib")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "PRESETS",
    "Calibration",
    "ComparedEvaluation",
    "Comparison",
    "ComparisonByText",
    "CompleteSettings",
    "Evaluation",
    "EvaluationByText",
    "HealedFolder",
    "HealingResult",
    "HealingSettings",
    "InputError",
    "Intervals",
    "LayerReport",
    "Measures",
    "NoNumber",
    "OutOfReach",
    "Plan",
    "Problem",
    "Progress",
    "Pruned",
    "Report",
    "SavedModel",
    "Selection",
    "Settings",
    "Shape",
    "Statistics",
    "Verdict",
    "__version__",
    "evaluate",
    "export_gguf",
    "export_padded",
    "heal",
    "heal_folder",
    "keep_highest",
    "load_model",
    "load_text",
    "log_lines",
    "metric",
    "prune",
    "prune_model",
]

_MODULES = {  # public name -> the module that defines it
    "PRESETS": "comp_lib.settings",
    "Calibration": "comp_lib.calibration.windows",
    "ComparedEvaluation": "comp_lib.evaluation.loss",
    "Comparison": "comp_lib.evaluation.loss",
    "ComparisonByText": "comp_lib.evaluation.by_kind",
    "CompleteSettings": "comp_lib.settings",
    "Evaluation": "comp_lib.evaluation.loss",
    "EvaluationByText": "comp_lib.evaluation.by_kind",
    "HealedFolder": "comp_lib.disk.heal_folder",
    "HealingResult": "comp_lib.healing",
    "HealingSettings": "comp_lib.healing",
    "InputError": "comp_lib.errors",
    "Intervals": "comp_lib.evaluation.confidence",
    "LayerReport": "comp_lib.report",
    "Measures": "comp_lib.evaluation.loss",
    "NoNumber": "comp_lib.errors",
    "OutOfReach": "comp_lib.errors",
    "Plan": "comp_lib.plan",
    "Problem": "comp_lib.importance.problem",
    "Progress": "comp_lib.progress",
    "Pruned": "comp_lib.pruned",
    "Report": "comp_lib.report",
    "SavedModel": "comp_lib.disk.from_disk",
    "Selection": "comp_lib.importance.problem",
    "Settings": "comp_lib.settings",
    "Shape": "comp_lib.shape",
    "Statistics": "comp_lib.statistics.sums",
    "Verdict": "comp_lib.disk.verdict",
    "evaluate": "comp_lib.evaluation.by_kind",
    "export_gguf": "comp_lib.models.export",
    "export_padded": "comp_lib.models.padded",
    "heal": "comp_lib.healing",
    "heal_folder": "comp_lib.disk.heal_folder",
    "keep_highest": "comp_lib.importance.neurons",
    "load_model": "comp_lib.models.load",
    "load_text": "comp_lib.calibration.texts",
    "log_lines": "comp_lib.progress",
    "metric": "comp_lib.importance.neurons",
    "prune": "comp_lib.comp",
    "prune_model": "comp_lib.disk.prune_model",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'comp_lib' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
