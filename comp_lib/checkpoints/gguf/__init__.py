"""GGUF files: read, written, run in llama.cpp, and how fast both runtimes are."""
