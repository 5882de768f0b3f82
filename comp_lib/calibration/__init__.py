"""The text that shows a method what the model does: files, shares of a mixture, windows of tokens."""
