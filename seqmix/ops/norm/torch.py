"""The root mean square norm by PyTorch's, on any device."""

from torch import Tensor
from torch.nn import functional as F


def norm(x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool) -> Tensor:
    """Return the norm; arguments as ``reference``."""
    x = x.to(weight.dtype)
    x = x * F.silu(z) if z.shape[-1] and gate_first else x
    # with several groups the scale comes after, as each group has its own
    y = F.rms_norm(x, x.shape[-1:], weight[0] if len(weight) == 1 else None, eps)
    y = y if len(weight) == 1 else y * weight
    return y * F.silu(z) if z.shape[-1] and not gate_first else y
