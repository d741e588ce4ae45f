"""Wider types for operations that half precision rounds badly: transforms, recurrences, counts."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 if it is of a half type, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def widest(x: Tensor) -> Tensor:
    """``x`` in float64, for angles and exponents that grow with the length; ``wide(x)`` on MPS, which lacks it."""
    return wide(x) if x.device.type == "mps" else x.double()
