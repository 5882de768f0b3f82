"""Sums over the calibration tokens, all that the method knows of the text: `sums`, `few_tokens`, `solve`."""
