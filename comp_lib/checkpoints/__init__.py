"""Models in files: folders of safetensors and GGUF files, read, checked and written as a whole.

`load` gives a model for a name, `save` writes a folder, `gguf` has the format of llama.cpp, `padded` and
`export` write for other runtimes, and `from_disk` prunes from files to files. It imports the rooms up to
`pruning`.
"""
