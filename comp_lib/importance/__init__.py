"""What is worth least: layers, neurons and KV groups.

`layers` has the importance of whole layers, `neuron_metrics` what chooses neurons, `matrix_condition` the
metric of COMP, and `statistics` the sums over tokens that they read. It imports the rooms up to `evaluation`.
"""
