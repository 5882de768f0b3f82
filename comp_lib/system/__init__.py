"""The operating system: files that appear complete, tensors in files, memory, devices, hashes."""
