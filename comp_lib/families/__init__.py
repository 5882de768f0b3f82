"""Model families: one adapter, by structure, for every decoder whose layers add attention, then a gated MLP.

`find` names the parts of a layer, `probe` tests how they reach the residual stream, `run` runs a model piece
by piece, `tokens` checks what it is to read, `table` has the facts that no layer shows, and `types` the types
that all modules share.
"""
