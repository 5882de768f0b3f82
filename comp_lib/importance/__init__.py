"""The worth of whole layers, neurons and KV groups, and the harm of narrowing a layer."""

from typing import Literal, get_args

LayerMetricName = Literal["block-influence", "loss"]
# The keys of `layers.LAYER_METRICS`, for the help of the command line, which must not import torch.
LAYER_METRIC_NAMES: tuple[LayerMetricName, ...] = get_args(LayerMetricName)
