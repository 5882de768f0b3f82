"""Sums over the calibration tokens: all that the method knows of the text.

`sums`, `few_tokens` and `blocks` hold them, `solve` solves with them.
"""
