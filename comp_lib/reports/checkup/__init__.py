"""A check-up of any checkpoint: as tidy frames, as a notebook, as a page.

    import seaborn

    from comp_lib import load_model
    from comp_lib.reports.checkup import draw, neurons

    model, tokenizer = load_model("smollm2-135m")
    sample = draw(tokenizer, window_count=2, window_length=128)
    seaborn.lineplot(neurons(model, sample), x="layer", y="cost")

Each frame has one row an observation; `COLUMNS` says what the columns mean, with their units.
"""

from .columns import COLUMNS, Sample, draw
from .cost_frame import costs, dense_quality
from .differences import changed_kinds, changed_layers, pair
from .fewer_bits import fewer_bits
from .frames import curves, groups, layers, neurons

__all__ = ["COLUMNS", "Sample", "changed_kinds", "changed_layers", "costs", "curves", "dense_quality", "draw"]
__all__ += ["fewer_bits", "groups", "layers", "neurons", "pair"]
