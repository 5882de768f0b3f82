"""What people look at: a check-up of one model, methods side by side, plots, and speed in a runtime.

It imports the rooms up to `checkpoints`, and what the extras `plots` and `report` bring.
"""
