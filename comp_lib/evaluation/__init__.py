"""How good a model is, and how sure that is.

`loss` and `divergence` measure, `by_kind` does so on every kind of text, `confidence` has the intervals, and
`format` puts both into words; `generation` lets a model write, `zero_shot` asks it questions. It imports the
rooms up to `calibration`.
"""
