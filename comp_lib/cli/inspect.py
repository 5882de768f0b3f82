"""`comp-lib inspect`: what a model is made of, layer by layer."""

import json
from typing import Annotated

from rich.table import Table
from typer import Option, echo

from .console import ProgressBars, check_length, out
from .options import Device, Dtype, Json, Model, command


@command
def inspect(
    model: Model,
    calibration: Annotated[str, Option(help="Text for the layer importance.")] = "calibration",
    sequences: Annotated[int, Option()] = 8,
    length: Annotated[int, Option()] = 256,
    seed: Annotated[int, Option()] = 0,
    as_json: Json = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Layers, widths, parameters and layer importance of MODEL."""
    from ..calibration.tokens import calibration_tokens
    from ..importance.layers import block_influence
    from ..models.load import load_model
    from ..shape import Shape

    loaded, tokenizer = load_model(model, dtype)
    check_length(loaded, length)
    ids = calibration_tokens(calibration, tokenizer, model=loaded, sequences=sequences, length=length, seed=seed)
    with ProgressBars() as bars:
        influence = block_influence(loaded, ids, device, bars).tolist()
    shape = Shape.of(loaded)
    columns = ("layer", "neurons", "kv_groups", "parameters", "block_influence")
    sizes = [(layer, shape.neurons[layer], shape.kv_groups[layer], shape.layer(layer)) for layer in range(shape.layers)]
    if as_json:
        layers = [dict(zip(columns, (*row, value), strict=True)) for row, value in zip(sizes, influence, strict=True)]
        echo(json.dumps({"model": model, "parameters": shape.total, "decoder": shape.decoder, "layers": layers}))
        return
    table = Table(*columns, title=f"{model}: {shape.total:,} parameters, {shape.decoder:,} in the decoder")
    for row, value in zip(sizes, influence, strict=True):
        table.add_row(*(f"{size:,}" for size in row), f"{value:.4f}")
    out.print(table)
