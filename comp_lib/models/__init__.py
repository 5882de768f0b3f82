"""Models on disk: from a name to a checked model, from a pruned model to a folder that runtimes load."""
