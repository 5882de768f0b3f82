"""The text that shows a method what the model does: where it comes from, its batches, its way through the layers."""
