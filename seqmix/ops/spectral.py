"""Data-dependent spectral filters (AFFNet, arXiv:2307.14008) over any number of axes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops.operands import require_axes, require_groups, require_operands


def adaptive_filter(
    U: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    activation: Callable[[Tensor], Tensor] = F.silu,
    threshold: float = 0.01,
) -> Tensor:
    """Multiply a spectrum by a mask that a two-layer network makes from it, frequency by frequency.

    ``shrink(W2 act(W1 U + b1) + b2) * U``; activation and shrinking act on real and imaginary parts apart, the layers
    are complex and block-diagonal over channels.

    Shapes: ``(..., D) -> (..., D)``, complex. Cost: O(D^2 / G) for each frequency.

    Args:
        U: the spectrum, complex, channels last.
        w1: first layer ``(2, G, D/G, D/G)``, real and imaginary part, input channel before output channel.
        b1: its bias ``(2, G, D/G)``.
        w2: second layer, like ``w1``.
        b2: its bias, like ``b1``.
        activation: nonlinearity of the first layer.
        threshold: soft-shrinkage of the mask, in units of its entries.

    Source: Huang et al., 2023, arXiv:2307.14008, eq. 4 to 6. Differs from the original code in: nothing.
    """
    if not U.is_complex():
        raise ValueError(f"U should be a spectrum of complex numbers, got {U.dtype}")
    require_axes("w1", w1, "2 G D D")
    G, D = w1.shape[1], U.shape[-1]
    require_groups("D", D, G)
    layer, bias = (2, G, D // G, D // G), (2, G, D // G)
    require_operands(U, ("w1", w1, layer), ("b1", b1, bias), ("w2", w2, layer), ("b2", b2, bias))
    if not U.numel():
        return U.clone()
    h = _layer(U.unflatten(-1, (w1.shape[1], -1)), w1, b1)
    h = torch.complex(activation(h.real), activation(h.imag))
    M = _layer(h, w2, b2)
    M = torch.complex(F.softshrink(M.real, threshold), F.softshrink(M.imag, threshold))
    return M.flatten(-2) * U


def _layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("...gi,gio->...go", x, torch.complex(w[0], w[1])) + torch.complex(b[0], b[1])
