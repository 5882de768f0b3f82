"""Planners of COMP: the layers that go for a given budget, and the widths of those that stay."""
