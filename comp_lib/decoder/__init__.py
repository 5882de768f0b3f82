"""A model as the method reads it: by structure, one layer at a time, with whatever widths it has.

`structure` names the parts of a layer, `probe` tests how they reach the residual stream, `run` runs a model
piece by piece, and `families` has the facts that no layer shows. `decoder` is what everything above works on,
`walk` takes a text through it, `shape` counts its parameters, `surgery` makes its tensors smaller, and
`own_widths` describes layers that differ in width to transformers. It imports `utils` alone.
"""
