"""The method, put together.

`comp` is COMP on one page, `prune_layer` its five phases for one layer, `planners` decide how much goes,
`settings` say what is asked for, and `report` what happened. It imports the rooms up to `hybrid_granularity`
and is the top of the thin core: nothing here knows a file format, a command line or a page.
"""
