"""The worth of whole layers, neurons and KV groups, and the harm of narrowing a layer."""

# The keys of `layers.LAYER_METRICS`, for the help of the command line, which must not import torch.
LAYER_METRIC_NAMES = ("block-influence", "loss")
