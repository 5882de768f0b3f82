"""Who goes: whole layers, neurons and KV groups (by the condition of a matrix), and how much each layer minds."""

# Of the inputs of a dense layer. Each is a function of `neurons`, with "_" for "-" in its name.
NEURON_METRICS = "full-condition", "mask-condition", "activation", "energy", "magnitude", "wanda-sp", "random"
LAYER_METRICS = "block-influence", "loss"
