"""Models where they are used: GGUF files, llama.cpp, benchmarks, and plans for a budget in time."""
