"""Two packages that prune language models, through the same measurement as ours: the same tokens, the same judges.

    python benchmarks/others.py optipfair [--text FILE] [--sequences 32] [--length 256] [--windows 20] [--ratio 0.2]
    python benchmarks/others.py torch-pruning ...

They come with `pip install 'comp-lib[bench]'`, and are called as their documentation does. Both take the same number of
MLP neurons from each layer, the least with which the ratio is met (`headline.py` rounds ours down to a multiple of 32,
so that it removes no less), both see one calibration sequence at a time, and neither tunes what stays.

- optipfair's MLP GLU pruning, in the variant that uses data: the spread of a neuron's weights times the norm of its
  activations.
- torch-pruning's BasePruner with the group Taylor importance, on which LLM-Pruner is built: |weight * gradient| of the
  loss over the calibration tokens, summed over a neuron's weights in each matrix. Only the MLP: where query heads share
  KV heads, version 1.6.1 with transformers 5.24 does not come back from grouping the channels of attention (three
  layers of 36 channels: not in ten minutes), and so neither does its own example for language models.

Each call prints its row and keeps it in benchmarks/headline.json.
"""

from __future__ import annotations

import importlib
import math
import sys
from importlib.metadata import version

import headline
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaForCausalLM

from comp_lib.errors import InputError
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.plan import Plan, PlanRequest
from comp_lib.shape import Shape

TRACED = 8  # tokens with which torch-pruning follows the model once


def main() -> None:
    parser = headline.judge_options(__doc__)
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("--ratio", type=float, default=0.2, help="of the decoder's parameters to remove, at least")
    arguments = parser.parse_args()
    found: list[Plan] = []

    def narrow(model: nn.Module, ids: Tensor) -> tuple[nn.Module, dict]:
        found.append(plan_for(model, arguments.ratio))
        small, asked = PACKAGES[arguments.package](model, ids, found[0])
        whose = {"method": arguments.package, "version": version(arguments.package)}
        return small, {**whose, "widths": "uniform", "aim": "self", "ratio": arguments.ratio, **asked}

    try:
        installed(arguments.package)  # before the memory is looked at: an import is not pruning
        row, small = headline.judge(arguments, narrow)
    except InputError as error:
        parser.error(str(error))
    assert isinstance(small, LlamaForCausalLM) and all(map(math.isfinite, row["increases"].values()))
    assert row["removed"] == found[0].removed >= arguments.ratio
    headline.keep(row)


def installed(package: str):
    """Its module. Raises InputError where it is missing."""
    try:
        return importlib.import_module(package.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise InputError(
            f"expected the package {package}, got no module {error.name}: pip install 'comp-lib[bench]'"
        ) from None


def plan_for(model: nn.Module, ratio: float) -> Plan:
    """One width for all layers, the largest with which at least `ratio` of the decoder's parameters go.

    Raises InputError unless `model` is a Llama of one width and the ratio can be reached.
    """
    shape = Shape.of(model)
    if not isinstance(model, LlamaForCausalLM) or not shape.uniform:
        raise InputError(
            f"expected a Llama with one width in all layers, got {type(model).__name__} with {set(shape.neurons)} "
            "neurons: choose another --model"
        )
    return uniform_plan(PlanRequest(shape, ratio, multiple=1))


def optipfair(model: nn.Module, ids: Tensor, plan: Plan) -> tuple[nn.Module, dict]:
    """`model` with the MLP widths of `plan`, changed in place, and what was asked for; ids (S, L) calibrate."""
    neurons = Shape.of(model).neurons[0]
    # The package rounds the neurons to remove down: half a neuron more keeps floats from making it one less.
    percentage = round(100 * (neurons - plan.neurons[0] + 0.5) / neurons, 4)
    asked = {"pruning_type": "MLP_GLU", "neuron_selection_method": "MAW", "pruning_percentage": percentage}
    data = DataLoader(TensorDataset(ids), batch_size=1)
    small = installed("optipfair").prune_model(model, **asked, dataloader=data, show_progress=False)
    return small, {**asked, "dataloader": "batches of 1"}


def torch_pruning(model: nn.Module, ids: Tensor, plan: Plan) -> tuple[nn.Module, dict]:
    """`model` with the MLP widths of `plan`, changed in place, and what was asked for; ids (S, L) calibrate."""
    package = installed("torch-pruning")
    for row in ids:
        model(input_ids=row[None], labels=row[None], use_cache=False).loss.backward()
    neurons = Shape.of(model).neurons[0]
    # The package rounds the neurons to keep down.
    ratio = round((neurons - plan.neurons[0] - 0.5) / neurons, 6)
    inner = {linear for layer in model.model.layers for linear in (layer.mlp.gate_proj, layer.mlp.up_proj)}
    others = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inner]
    pruner = package.pruner.BasePruner(
        model,
        ids[:1, :TRACED],
        package.importance.GroupTaylorImportance(),
        pruning_ratio=ratio,
        ignored_layers=others,
        output_transform=lambda output: output.logits,
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    model.config.intermediate_size = plan.neurons[0]
    return model, {"pruner": "BasePruner", "importance": "GroupTaylorImportance", "pruning_ratio": ratio}


PACKAGES = {"optipfair": optipfair, "torch-pruning": torch_pruning}

if __name__ == "__main__":
    sys.exit(main())
