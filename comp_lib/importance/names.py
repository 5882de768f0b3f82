"""The names of the metrics of layers, for the help of the command line, which must not import torch."""

from typing import Literal, get_args

LayerMetricName = Literal["block-influence", "loss"]
# The keys of `layers.LAYER_METRICS`.
LAYER_METRIC_NAMES: tuple[LayerMetricName, ...] = get_args(LayerMetricName)
