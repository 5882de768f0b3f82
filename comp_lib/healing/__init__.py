"""Healing: a short training after pruning, by its parent. The one part of this library that takes gradients."""
