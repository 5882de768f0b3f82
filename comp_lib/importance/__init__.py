"""What goes: whole layers, neurons and KV groups; and how much the model loses when a layer is narrowed."""

LAYER_METRICS = "block-influence", "loss"
