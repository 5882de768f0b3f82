"""How much text is taken where nobody says how much.

The command line needs these numbers before anything slow is imported, so this module imports nothing.
"""

USUAL_SEQUENCES = 128  # sequences that calibrate a pruning, or teach a healing
COMPARED_SEQUENCES = 32  # sequences that calibrate one run among many
USUAL_LENGTH = 256  # tokens of a calibration sequence
USUAL_WINDOW = 512  # tokens of a window that judges
