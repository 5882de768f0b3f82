"""Sums over the calibration tokens: all that the method knows of the text (`gram`, `few_tokens`, `solve`)."""
