"""Rules for a given budget: how many layers go, and the widths of those that stay."""
