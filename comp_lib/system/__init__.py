"""What the operating system gives: files that appear whole, tensors in files, memory, devices, hashes."""
