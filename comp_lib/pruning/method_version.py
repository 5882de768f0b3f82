"""The version of the numbers: stored runs of another version are stale.

Whoever changes a weight that `prune` makes adds 1. `tests/test_fingerprints.py` says when that is due. A
run on disk is not gone on with by another version, and the rows of a comparison are measured again.
"""

METHOD_VERSION = 1
