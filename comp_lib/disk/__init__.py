"""Models larger than memory: read, pruned and written one layer at a time, and taken up again after a cut."""
