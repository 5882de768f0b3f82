"""Model families: one adapter, by structure, for every decoder whose layers add attention, then a gated MLP.

`find` names the parts of a layer, `probe` asks how they reach the residual stream, `run` runs a model piece
by piece, `table` has what no layer can be asked, `protocol` the words that all share.
"""
