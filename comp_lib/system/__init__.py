"""What the operating system gives: files that appear whole, tensors in files, processes, memory, devices, hashes."""
