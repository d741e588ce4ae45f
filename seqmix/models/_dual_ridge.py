"""Ridge regression with more features than examples: the dual form, and every left-out prediction in closed form."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# penalties that are tried, in units of the mean square of an example
_PENALTIES = torch.logspace(-7, 1, 17, dtype=torch.float64)


class DualFit(NamedTuple):
    """The linear map ``x @ weight + bias`` with the least squared error of left-out examples."""

    weight: Tensor  # (F, K)
    bias: Tensor  # (K,)
    left_out: Tensor  # (n, K): prediction of each example by the map of the others


def dual_ridge(x: Tensor, y: Tensor) -> DualFit:
    """Fit ``y: (n, K)`` by standardized features ``x: (n, F)``; float64 sums, one eigendecomposition for all penalties.

    Cost: O(n^2 F + n^3).
    """
    mean, std = x.mean(0), x.std(0)
    # a constant feature carries no information
    scale = torch.where(std > 1e-6 * (1 + mean.abs()), 1 / std.clamp(min=1e-30), 0.0)
    z = (x - mean) * scale
    n, level = len(y), y.double().mean(0)
    values, vectors = torch.linalg.eigh((z @ z.T).double())
    values = values.clamp(min=0)
    turned = vectors.T @ (y.double() - level)  # (n, K)
    best, found = math.inf, (turned, y.double())
    for penalty in _PENALTIES * values.sum().clamp(min=1e-12) / n:
        shrunk = values / (values + penalty)
        error = y.double() - level - vectors @ (shrunk.unsqueeze(1) * turned)
        # 1 / n is the share of an example in the level
        error = error / (1 - vectors.square() @ shrunk - 1 / n).clamp(min=1e-9).unsqueeze(1)
        if float(error.square().mean()) < best:
            best = float(error.square().mean())
            found = vectors @ (turned / (values + penalty).unsqueeze(1)), y.double() - error
    weight = scale.unsqueeze(1) * (z.T @ found[0].to(x.dtype))
    return DualFit(weight, level.to(x.dtype) - mean @ weight, found[1].to(x.dtype))
