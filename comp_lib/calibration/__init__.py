"""The text that calibrates, and the texts that judge.

`texts` reads them by name or file, `mixtures` says how much of each there is, `windows` draws tokens,
`in_memory` takes a caller's own, and `self_generated` lets the model write. It imports `utils` and `decoder`.
"""
