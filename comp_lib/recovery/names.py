"""The names of the recoveries, for the help of the command line, which must not import torch."""

from typing import Literal, get_args

RecoveryName = Literal["least-squares", "mask", "bias", "none"]
RECOVERY_NAMES: tuple[RecoveryName, ...] = get_args(RecoveryName)  # the keys of `recoveries.RECOVERIES`
