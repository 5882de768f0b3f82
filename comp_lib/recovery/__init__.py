"""What stays of a dense layer takes over what went: a tuned mask (the paper's), least squares, or a bias (FLAP's)."""
