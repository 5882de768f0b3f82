"""Models larger than memory: read, pruned and written layer by layer, and taken up again after a stop."""
