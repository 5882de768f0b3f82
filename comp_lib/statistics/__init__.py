"""Sums over the calibration tokens: all that the method knows of the text.

`sums` and `few_tokens` hold them, `blocks` says which inputs go together, `solve` solves with them.
"""
