"""Models where they are used: GGUF files, llama.cpp, and how fast both runtimes are."""
