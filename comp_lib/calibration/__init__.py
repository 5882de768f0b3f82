"""Texts by name or file, and what calibrates: shares of a mixture, windows of tokens, text a model wrote."""
