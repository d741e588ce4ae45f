"""RandomConvolutions: a classifier by features of random convolutions and a ridge in closed form."""

import math
from collections.abc import Iterable
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import check_at_least
from seqmix.models._ridge_of_features import fit_ridge
from seqmix.models.series_classifier import SeriesClassifier, register_classifier

Batch = dict[str, Tensor]

_TAPS = 9
# a kernel for each choice of three of nine taps, and the number of kernels that compete in a group
_FIXED, _RIVALS = 84, 8
# elements of series per convolution
_AT_ONCE = 1 << 16


@register_classifier(paper="arXiv:2012.08791", n_features=500, n_groups=2)
class RandomConvolutions(SeriesClassifier):
    """Classifier by thousands of features of random convolutions and a ridge; no gradient steps.

    The features, of the series and of its differences, are of two kinds, for dilations up to the length:

    - proportions (MiniRocket): 84 fixed kernels of nine taps, -1 and three times 2; the share of the time steps at
      which one is above a bias, where biases are quantiles of the kernel on training series;
    - competition: in each group of eight random kernels, how much those are worth that are the largest at a time step,
      and how often each is the smallest.

    A kernel reads a random subset of the channels. The ridge maps standardized features to the classes; its penalty
    has the least squared error of left-out training series, and a factor on its scores the least cross-entropy of
    them, so that probabilities are calibrated. Both have a closed form. Masked time steps count in no feature.

    Shapes: ``(B, L, C) -> (B, n_classes)``. Cost: O(L C n_features) for each series, and to fit n of them O(n^2
    n_features + n^3) up to 2,048, then O(n n_features) for each of at most 50 steps, and the memory of their features.

    Args:
        n_features: proportions in all.
        n_groups: groups of eight competing kernels, for each dilation.

    Raises:
        ConfigError: if an option is below 1.

    Source: proportions: Dempster et al., 2021, arXiv:2012.08791; differences: Tan et al., 2022, arXiv:2102.00457;
    competition: Dempster et al., 2023, arXiv:2203.13652, who call it Hydra (not the bidirectional state space model of
    that name here). Differs from the original code in: kernels are always padded; masks; the penalty in units of the
    features; probabilities.
    """

    closed_form = True

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        max_len: int,
        *,
        n_features: int = 10_000,
        n_groups: int = 32,
    ):
        super().__init__(n_channels, n_classes, max_len)
        check_at_least(1, n_features=n_features, n_groups=n_groups)
        lengths = [max_len, max_len - 1] if max_len > 1 else [max_len]
        proportions = [_Proportions(n_channels, length, n_features // len(lengths)) for length in lengths]
        competitions = [_Competition(n_channels, length, n_groups) for length in lengths]
        self.proportions, self.competitions = nn.ModuleList(proportions), nn.ModuleList(competitions)
        total = sum(part.n_features for part in (*proportions, *competitions))
        self.weight = nn.Parameter(torch.zeros(total, n_classes))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.features(x, mask) @ self.weight + self.bias

    @torch.no_grad()
    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features ``(B, F)`` of ``x: (B, L, C)``."""
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        rows = max(1, _AT_ONCE // x.shape[1])
        found = x.new_empty(len(x), len(self.weight))
        for part, *given in zip(found.split(rows), x.split(rows), mask.split(rows), strict=True):
            part.copy_(self._features(*given))
        return found

    def _features(self, x: Tensor, mask: Tensor) -> Tensor:
        forms = _forms(x, mask, len(self.proportions))
        found = [part(*form) for part, form in zip(self.proportions, forms, strict=True)]
        return torch.cat([*found, *(part(*form) for part, form in zip(self.competitions, forms, strict=True))], 1)

    @torch.no_grad()
    def fit_closed_form(self, train: Iterable[Batch]) -> None:
        """Learn biases from random training series, then fit the ridge and the scale of its scores."""
        batches = list(train)
        x, mask = _stacked(batches)
        labels = torch.cat([batch["labels"] for batch in batches])
        for part, form in zip(self.proportions, _forms(x, mask, len(self.proportions)), strict=True):
            cast(_Proportions, part).learn(*form)
        targets = 2 * F.one_hot(labels, self.n_classes).to(x.dtype) - 1
        fit = fit_ridge(self.features(x, mask), targets)
        factors = torch.logspace(0, 1.5, 31)
        losses = [F.cross_entropy(factor * fit.left_out, labels[fit.rows]) for factor in factors]
        factor = factors[int(torch.stack(losses).argmin())].to(x)
        self.weight.copy_(factor * fit.weight)
        self.bias.copy_(factor * fit.bias)


class _Proportions(nn.Module):
    """Shares of time steps at which fixed kernels are above biases, ``(B, C, L), (B, L) -> (B, F)``."""

    biases: Tensor
    weights: Tensor

    def __init__(self, n_channels: int, length: int, n_features: int):
        super().__init__()
        top = math.log2(max(1.0, (length - 1) / (_TAPS - 1)))
        self.dilations = sorted({int(2 ** (top * k / 31)) for k in range(32)})
        each = max(1, n_features // (_FIXED * len(self.dilations)))
        taps = torch.full((_FIXED, 1, _TAPS), -1.0)
        for row, places in zip(taps, combinations(range(_TAPS), 3), strict=True):
            row[0, list(places)] = 2.0
        seen = torch.stack([_channels(n_channels, _FIXED) for _ in self.dilations])  # (dilations, 84, C)
        self.register_buffer("weights", taps * seen.unsqueeze(-1))  # (dilations, 84, C, 9)
        self.register_buffer("biases", torch.zeros(len(self.dilations), _FIXED, each))
        self.n_features = self.biases.numel()

    def learn(self, x: Tensor, mask: Tensor) -> None:
        """Set the biases of each kernel to evenly spread quantiles of its outputs on one random series."""
        golden, each = (math.sqrt(5) - 1) / 2, self.biases.shape[2]
        for k, (weight, dilation) in enumerate(zip(self.weights, self.dilations, strict=True)):
            rows = torch.randint(len(x), (_FIXED,), device=x.device)
            reach = dilation * (_TAPS // 2)
            y = F.conv1d(x[rows].flatten(0, 1), weight, padding=reach, dilation=dilation, groups=_FIXED)
            numbers = torch.arange(k * _FIXED * each, (k + 1) * _FIXED * each, device=x.device, dtype=torch.float64)
            levels = ((numbers + 1) * golden % 1).to(x.dtype).view(_FIXED, each)
            for row, (values, kept) in enumerate(zip(y, mask[rows], strict=True)):
                if kept.any():
                    self.biases[k, row] = values[kept].quantile(levels[row])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        count = mask.sum(1).clamp(min=1).view(-1, 1, 1)
        found = []
        for weight, dilation, biases in zip(self.weights, self.dilations, self.biases, strict=True):
            y = _convolve(x, weight, dilation)  # (B, 84, L)
            y = y if mask.all() else y.masked_fill(~mask.unsqueeze(1), float("-inf"))
            # a comparison into floats, and their sum, take a tenth of the time of those of bools
            above = torch.empty_like(y)
            sums = [torch.gt(y, bias.unsqueeze(-1), out=above).sum(-1) for bias in biases.unbind(-1)]
            found.append((torch.stack(sums, -1) / count).flatten(1))
        return torch.cat(found, 1)


class _Competition(nn.Module):
    """Worth and number of the time steps that kernels of groups win, ``(B, C, L), (B, L) -> (B, F)``."""

    weights: Tensor

    def __init__(self, n_channels: int, length: int, n_groups: int):
        super().__init__()
        self.dilations = [2**k for k in range(1 + int(math.log2(max(1.0, (length - 1) / (_TAPS - 1)))))]
        taps = torch.randn(len(self.dilations), n_groups, _RIVALS, 1, _TAPS)
        taps = taps - taps.mean(-1, keepdim=True)
        taps = taps / taps.abs().sum(-1, keepdim=True)
        seen = torch.stack([_channels(n_channels, n_groups) for _ in self.dilations])  # (dilations, groups, C)
        self.register_buffer("weights", (taps * seen[:, :, None, :, None]).flatten(1, 2))
        self.n_features = 2 * len(self.dilations) * n_groups * _RIVALS

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kept, found = mask.unsqueeze(1).to(x.dtype), []
        for weight, dilation in zip(self.weights, self.dilations, strict=True):
            y = _convolve(x, weight, dilation).unflatten(1, (-1, _RIVALS))  # (B, groups, 8, L)
            zeros = y.new_zeros(y.shape[:3])
            top, largest = y.max(2)
            found.append(zeros.scatter_add(2, largest, top * kept))
            # the indices of min, as argmin is slow on a CPU
            found.append(zeros.scatter_add(2, y.min(2).indices, kept.expand_as(top)))
        return torch.cat([each.flatten(1) for each in found], 1).clamp(min=0).sqrt()


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Dilated convolution of ``x: (B, C, L)`` by kernels ``(K, C, 9)``, as one product, which is faster on a CPU."""
    L, reach = x.shape[2], dilation * (_TAPS // 2)
    x = F.pad(x, (reach, reach))
    taps = torch.stack([x[..., k * dilation : k * dilation + L] for k in range(_TAPS)], 2)  # (B, C, 9, L)
    return weight.flatten(1) @ taps.flatten(1, 2)


def _channels(n_channels: int, n: int) -> Tensor:
    """Random subsets of the channels for ``n`` kernels, ``(n, C)`` of 0 and 1; small ones as likely as large ones."""
    most = math.log2(min(n_channels, _TAPS) + 1)
    sizes = (2 ** (most * torch.rand(n))).long().clamp(1, n_channels)
    return (torch.rand(n, n_channels).argsort(1).argsort(1) < sizes.unsqueeze(1)).float()


def _forms(x: Tensor, mask: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    """The series, and its differences if ``n`` is 2, channels first, with their masks."""
    x = x.transpose(1, 2)
    if n == 1:
        return [(x, mask)]
    if x.shape[2] == 1:
        # a single step has no difference: a masked one counts for nothing
        return [(x, mask), (torch.zeros_like(x), torch.zeros_like(mask))]
    both = mask[:, 1:] & mask[:, :-1]
    return [(x, mask), ((x[..., 1:] - x[..., :-1]) * both.unsqueeze(1), both)]


def _stacked(batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """All series ``(n, L, C)`` and their masks ``(n, L)``, padded with zeros to the longest."""
    longest = max(batch["x"].shape[1] for batch in batches)
    xs, masks = [], []
    for batch in batches:
        x, missing = batch["x"], longest - batch["x"].shape[1]
        mask = batch.get("mask", x.new_ones(x.shape[:2], dtype=torch.bool))
        xs.append(F.pad(x.masked_fill(~mask.unsqueeze(-1), 0), (0, 0, 0, missing)))
        masks.append(F.pad(mask, (0, missing)))
    return torch.cat(xs), torch.cat(masks)
