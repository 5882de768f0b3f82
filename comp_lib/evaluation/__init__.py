"""How good a model is: loss and perplexity with their confidence, zero-shot tasks, the text that it writes."""
