"""Ridge regression on thousands of features: the dual form for few examples, conjugate gradients for many."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# penalties that are tried, in units of the mean square of an example
_PENALTIES = torch.logspace(-7, 1, 17, dtype=torch.float64)
# most examples of the dual form, whose time is cubic in them
_MOST = 2048
# conjugate gradients stop at this residual, in shares of the first one, or after so many steps
_TOLERANCE, _STEPS = 1e-2, 50


class RidgeFit(NamedTuple):
    """The linear map ``x @ weight + bias`` with the least squared error of left-out examples."""

    weight: Tensor  # (F, K)
    bias: Tensor  # (K,)
    rows: Tensor  # (m,): examples with a left-out prediction, all where they are few
    left_out: Tensor  # (m, K): predictions of these examples by a map of others
    penalty: Tensor  # in float64


def fit_ridge(x: Tensor, y: Tensor) -> RidgeFit:
    """Fit ``y: (n, K)`` by standardized features ``x: (n, F)``, with the best of many penalties.

    Of more than 2,048 examples as many random ones choose the penalty, and are left out once, all together.

    Cost: O(n^2 F + n^3) up to 2,048 examples, then O(n F) for each step of the conjugate gradients.
    """
    n = len(y)
    if n <= _MOST:
        return dual_ridge(x, y)
    rows = torch.randperm(n, device=x.device)[:_MOST]
    penalty = dual_ridge(x[rows], y[rows]).penalty
    others = y.new_ones(n, 1).index_fill(0, rows, 0)
    weight, bias = _conjugate_gradients(x, y, others, penalty)
    left_out = x[rows] @ weight + bias
    return RidgeFit(*_conjugate_gradients(x, y, torch.ones_like(others), penalty), rows, left_out, penalty)


def _scale(mean: Tensor, std: Tensor) -> Tensor:
    """Factors of features; a constant one carries no information, and has 0."""
    return torch.where(std > 1e-6 * (1 + mean.abs()), 1 / std.clamp(min=1e-30), 0.0)


def _conjugate_gradients(x: Tensor, y: Tensor, taken: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the ridge on the examples where ``taken: (n, 1)`` is 1 and not 0; no copy of ``x``."""
    mean, level = ((taken.T @ values)[0] / taken.sum() for values in (x, y))
    scale = _scale(mean, x.std(0)).unsqueeze(1)

    def predicted(w: Tensor) -> Tensor:
        return x @ (scale * w) - mean @ (scale * w)

    def back(u: Tensor) -> Tensor:
        u = taken * u
        # this order of the product takes a tenth of the time of x.T @ u
        return scale * ((u.T @ x).T - torch.outer(mean, u.sum(0)))

    w = torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype, device=x.device)
    residual = back(y - level)
    step, size = residual, residual.square().sum(0)
    least = _TOLERANCE**2 * size
    for _ in range(_STEPS):
        turned = back(predicted(step)) + penalty.to(x.dtype) * step
        length = size / (step * turned).sum(0).clamp(min=1e-30)
        w, residual = w + length * step, residual - length * turned
        before, size = size, residual.square().sum(0)
        if (size <= least).all():
            break
        step = residual + size / before.clamp(min=1e-30) * step
    weight = scale * w
    return weight, level - mean @ weight


def dual_ridge(x: Tensor, y: Tensor) -> RidgeFit:
    """The fit in float64 sums, with one eigendecomposition for all penalties."""
    mean = x.mean(0)
    scale = _scale(mean, x.std(0))
    z = (x - mean) * scale
    n, level = len(y), y.double().mean(0)
    values, vectors = torch.linalg.eigh((z @ z.T).double())
    values = values.clamp(min=0)
    turned = vectors.T @ (y.double() - level)  # (n, K)
    best, found, chosen = math.inf, (turned, y.double()), values.sum()
    for penalty in _PENALTIES * values.sum().clamp(min=1e-12) / n:
        shrunk = values / (values + penalty)
        error = y.double() - level - vectors @ (shrunk.unsqueeze(1) * turned)
        # 1 / n is the share of an example in the level
        error = error / (1 - vectors.square() @ shrunk - 1 / n).clamp(min=1e-9).unsqueeze(1)
        if float(error.square().mean()) < best:
            best, chosen = float(error.square().mean()), penalty
            found = vectors @ (turned / (values + penalty).unsqueeze(1)), y.double() - error
    weight = scale.unsqueeze(1) * (z.T @ found[0].to(x.dtype))
    bias, rows = level.to(x.dtype) - mean @ weight, torch.arange(n, device=x.device)
    return RidgeFit(weight, bias, rows, found[1].to(x.dtype), chosen)
