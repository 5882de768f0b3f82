"""Who goes: whole layers, neurons and KV groups (by the condition of a matrix), and how much each layer minds."""

LAYER_METRICS = "block-influence", "loss"
