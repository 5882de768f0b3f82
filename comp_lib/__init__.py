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

Where to read on: the rooms, from the lowest to the highest, are `utils`, `decoder`, `calibration`,
`evaluation`, `importance`, `recovery`, `hybrid_granularity`, `pruning`, `checkpoints`, `reports` and `cli`;
each `__init__` says what is in it. `pruning.comp` is the method on one page, `pruning.prune_layer` its five
phases for one layer.

Importing this package is cheap: the names below are looked up on first use, so torch is loaded only when
needed.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` looks up, for type checkers and editors
    from .calibration.texts import load_text as load_text
    from .calibration.windows import Calibration as Calibration
    from .checkpoints.export import export_gguf as export_gguf
    from .checkpoints.from_disk.from_disk import SavedModel as SavedModel
    from .checkpoints.from_disk.heal_folder import HealedFolder as HealedFolder
    from .checkpoints.from_disk.heal_folder import heal_folder as heal_folder
    from .checkpoints.from_disk.prune_model import prune_model as prune_model
    from .checkpoints.from_disk.verdict import Verdict as Verdict
    from .checkpoints.load import load_model as load_model
    from .checkpoints.padded import export_padded as export_padded
    from .checkpoints.save import save_model as save_model
    from .decoder.shape import Shape as Shape
    from .evaluation.by_kind import ComparisonByText as ComparisonByText
    from .evaluation.by_kind import EvaluationByText as EvaluationByText
    from .evaluation.by_kind import evaluate as evaluate
    from .evaluation.confidence import Intervals as Intervals
    from .evaluation.loss import ComparedEvaluation as ComparedEvaluation
    from .evaluation.loss import Comparison as Comparison
    from .evaluation.loss import Evaluation as Evaluation
    from .evaluation.loss import Measures as Measures
    from .hybrid_granularity.plan import Plan as Plan
    from .importance.neuron_metrics import keep_highest as keep_highest
    from .importance.neuron_metrics import metric as metric
    from .importance.problem import Problem as Problem
    from .importance.problem import Selection as Selection
    from .importance.statistics.sums import Statistics as Statistics
    from .pruning.comp import prune as prune
    from .pruning.pruned import Pruned as Pruned
    from .pruning.report import LayerReport as LayerReport
    from .pruning.report import Report as Report
    from .pruning.settings import PRESETS as PRESETS
    from .pruning.settings import CompleteSettings as CompleteSettings
    from .pruning.settings import Settings as Settings
    from .recovery.healing import HealingResult as HealingResult
    from .recovery.healing import HealingSettings as HealingSettings
    from .recovery.healing import heal as heal
    from .utils.errors import InputError as InputError
    from .utils.errors import NoNumber as NoNumber
    from .utils.errors import OutOfReach as OutOfReach
    from .utils.progress import Progress as Progress
    from .utils.progress import log_lines as log_lines

try:
    __version__ = version("comp-lib")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

_MODULES = {  # public name -> the module that defines it
    "PRESETS": "comp_lib.pruning.settings",
    "Calibration": "comp_lib.calibration.windows",
    "ComparedEvaluation": "comp_lib.evaluation.loss",
    "Comparison": "comp_lib.evaluation.loss",
    "ComparisonByText": "comp_lib.evaluation.by_kind",
    "CompleteSettings": "comp_lib.pruning.settings",
    "Evaluation": "comp_lib.evaluation.loss",
    "EvaluationByText": "comp_lib.evaluation.by_kind",
    "HealedFolder": "comp_lib.checkpoints.from_disk.heal_folder",
    "HealingResult": "comp_lib.recovery.healing",
    "HealingSettings": "comp_lib.recovery.healing",
    "InputError": "comp_lib.utils.errors",
    "Intervals": "comp_lib.evaluation.confidence",
    "LayerReport": "comp_lib.pruning.report",
    "Measures": "comp_lib.evaluation.loss",
    "NoNumber": "comp_lib.utils.errors",
    "OutOfReach": "comp_lib.utils.errors",
    "Plan": "comp_lib.hybrid_granularity.plan",
    "Problem": "comp_lib.importance.problem",
    "Progress": "comp_lib.utils.progress",
    "Pruned": "comp_lib.pruning.pruned",
    "Report": "comp_lib.pruning.report",
    "SavedModel": "comp_lib.checkpoints.from_disk.from_disk",
    "Selection": "comp_lib.importance.problem",
    "Settings": "comp_lib.pruning.settings",
    "Shape": "comp_lib.decoder.shape",
    "Statistics": "comp_lib.importance.statistics.sums",
    "Verdict": "comp_lib.checkpoints.from_disk.verdict",
    "evaluate": "comp_lib.evaluation.by_kind",
    "export_gguf": "comp_lib.checkpoints.export",
    "export_padded": "comp_lib.checkpoints.padded",
    "heal": "comp_lib.recovery.healing",
    "heal_folder": "comp_lib.checkpoints.from_disk.heal_folder",
    "keep_highest": "comp_lib.importance.neuron_metrics",
    "load_model": "comp_lib.checkpoints.load",
    "load_text": "comp_lib.calibration.texts",
    "log_lines": "comp_lib.utils.progress",
    "metric": "comp_lib.importance.neuron_metrics",
    "prune": "comp_lib.pruning.comp",
    "prune_model": "comp_lib.checkpoints.from_disk.prune_model",
    "save_model": "comp_lib.checkpoints.save",
}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'comp_lib' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
