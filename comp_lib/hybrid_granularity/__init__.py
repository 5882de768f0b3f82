"""How much of each layer goes: whole layers, or some neurons of every layer.

`plan` is the answer as a value; `uniform`, `paper` and `by_harm` find one; `measured` and `estimated` ask the
model what a narrower layer costs it. It imports the rooms up to `recovery`.
"""
