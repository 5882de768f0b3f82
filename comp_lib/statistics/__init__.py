"""Sums over the calibration tokens, and their inverse: all that the method knows about the text.

`gram` keeps C = X^T X, `few_tokens` keeps X itself where that is smaller; both are `Statistics`.
`solve` holds the linear algebra that they share.
"""
