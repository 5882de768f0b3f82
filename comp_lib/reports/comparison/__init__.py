"""Methods side by side on one model and the same text: a grid of runs, each in a process of its own."""
