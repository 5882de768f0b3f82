"""How much goes: layers, and neurons in each that stays, for a given budget (`uniform`, `paper`, `measured`)."""
