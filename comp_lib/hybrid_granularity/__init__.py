"""How much goes: how many layers, and how many neurons in each layer that stays, for a given budget.

* `uniform`: layers first, then one width for all layers that stay. Any stock runtime loads the result.
* `paper`: layers first, then for each layer a ratio in inverse proportion to its importance, as the digests of the
  paper describe it.
* `measured`: widths by what narrowing each layer does to the model's answer.
"""
