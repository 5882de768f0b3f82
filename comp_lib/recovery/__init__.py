"""What the neurons that stay can make good.

`least_squares` is COMP's refit, `mask_tuning` the paper's, `bias` FLAP's, and `recoveries` lists them by
name; `healing` trains for a short while afterwards. It imports the rooms up to `importance`.
"""
