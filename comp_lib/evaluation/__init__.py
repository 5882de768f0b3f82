"""How good a model is: loss and perplexity with their intervals, zero-shot tasks, the text that it writes."""
