"""From disk to disk: a model's files are read, pruned and written layer by layer, also after a stop.

`prune_model` is the whole way, from a model's name to a verdict (`verdict`) on the smaller one. `from_disk`
prunes: it reads layers with `model_on_disk` and gives them to a `sink`, which writes them into a
`work_folder`, so that the model may be larger than memory. `destination` is where the result goes.
`ratio_search` finds the ratio that a loss allows, with the model in memory. `heal_folder` heals what was
pruned.
"""
