"""What all rooms use, and no concept of the method.

Errors that a user can cause, progress, files written as a whole, hashes, the cache, this machine, and checks
of numbers. It imports no other room.
"""
