"""How much goes for a given budget: layers, and neurons of those that stay."""
