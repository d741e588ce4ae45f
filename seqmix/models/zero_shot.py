"""ZeroShot, a pretrained forecasting model: quantiles of any series at once, from weights in the package."""

from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.errors import ConfigError, DataError
from seqmix.mixers import Mamba2, MixerFactory
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.periods import find_periods
from seqmix.models.quantile_patches import LEVELS, QuantilePatches
from seqmix.series import Series

# the longer cycle that goes with a season: a week of hours, half hours, quarters and tens of minutes; a year of days
_LONGER = {24: 168, 48: 336, 96: 672, 144: 1008, 7: 365}
_MEDIAN = LEVELS.index(0.5)
#: bounds of the numbers of observed values for which intervals are calibrated apart
LENGTHS = (16, 32, 64, 128)
# by season: quarterly and yearly series change more than others of their length. On earlier horizons of M1 yearly
# series have the least quantile loss at 1.1, quarterly ones at 1.0, where 80 % intervals hold 67 % at the end (LOG.md)
_WIDER = {1: 1.1, 4: 1.3}
# the deciles, whose paths are followed beyond the first block
_PATHS = slice(LEVELS.index(0.1), LEVELS.index(0.9) + 1)


@register_model(paper="arXiv:2403.07815", weights=None, d_model=16, n_layers=1, patch_len=4, block=8)
class ZeroShot(ForecastModel):
    """Pretrained on synthetic series: quantile forecasts of any series, each channel on its own, without training.

    Windows are standardized by their observed values, two periods are taken from the season of the data or found in
    the window, and a small causal model on patches gives 13 quantiles of 64 steps. The forecast is odd in the values:
    that of the negative series is the negative forecast. Beyond 64 steps the deciles are nine paths on which the model
    goes on, and the forecast is the quantiles of all that follows.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, the median, or ``(B, horizon, C, 13)``.
    Cost: that of the backbone on 2 B C sequences of context / patch_len, nine times that for each further 64 steps.

    Args:
        weights: name of weights in the package, or a safetensors file. None for random ones, to be trained.
        mixer: factory of the sequence mixer of every block; causal. Default: Mamba-2 with 16 states.
        d_model: width.
        n_layers: number of blocks.
        expand: inner width of the channel mixers, in widths.
        patch_len: time steps of a patch.
        block: steps that are forecast at once.

    Raises:
        ConfigError: if ``n_outputs`` is neither 1 nor 13, or there are no such weights.
        DataError: if the weights are damaged or of another model.

    Source: quantile loss on patches after Chronos-Bolt, Ansari et al., 2024, arXiv:2403.07815; synthetic series as in
    ``seqmix.data.SyntheticSeries``. Differs from it in: everything else.
    """

    masked = True
    pretrained = True
    quantiles = LEVELS
    context = 512

    widths: Tensor

    def __init__(
        self,
        series: Series,
        *,
        weights: str | None = "zeroshot",
        mixer: MixerFactory | None = None,
        d_model: int = 96,
        n_layers: int = 3,
        expand: float = 2,
        patch_len: int = 16,
        block: int = 64,
    ):
        super().__init__(series)
        if series.n_outputs not in (1, len(LEVELS)):
            raise ConfigError(
                f"ZeroShot forecasts {len(LEVELS)} quantiles, got n_outputs = {series.n_outputs}; use loss='quantile' "
                f"with quantiles={list(LEVELS)}"
            )
        self.patches = QuantilePatches(
            mixer=mixer or partial(Mamba2, headdim=32, d_state=16),
            d_model=d_model,
            n_layers=n_layers,
            expand=expand,
            patch_len=patch_len,
            horizon=block,
        )
        # widths of intervals by the length of the history, over those that were trained: see zeroshot_weights.py
        self.register_buffer("widths", torch.ones(len(LENGTHS) + 1))
        if weights is not None:
            self._load(weights)
            self.widths *= _WIDER.get(series.season, 1.0)

    def forward(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Forecast from ``x: (B, context, C)``; ``mask``, of that shape, is True where a value was observed."""
        B, C = x.shape[0], x.shape[2]
        observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        z, seen = (v.transpose(1, 2).flatten(0, 1) for v in (x, observed))  # (B C, context)
        wide = z.double().masked_fill(~seen, 0)
        # statistics are treated as constants in the gradient
        values, count = wide.detach(), seen.sum(1, keepdim=True).clamp(min=1)
        level = values.sum(1, keepdim=True) / count
        scale = ((values - level).masked_fill(~seen, 0).square().sum(1, keepdim=True) / count).sqrt()
        # a constant series may differ from its mean by rounding
        scale = torch.where(scale > 1e-6 * level.abs(), scale, torch.ones_like(scale))
        z = ((wide - level) / scale).to(x.dtype).masked_fill(~seen, 0)
        known = torch.tensor([self.known], device=z.device).expand(z.shape[0], 2)
        y = self.quantiles_after(z, seen, known, self.widths)  # (B C, horizon, K)
        y = (y * scale[..., None] + level[..., None]).to(x.dtype)
        y = y.unflatten(0, (B, C)).transpose(1, 2)
        return y if self.series.n_outputs > 1 else y[..., _MEDIAN]

    @property
    def known(self) -> tuple[int, int]:
        """The two periods that are usual for the season of the data, 0 for none."""
        season = self.series.season if self.series.season > 1 else 0
        return season, _LONGER.get(season, 0)

    def quantiles_after(self, z: Tensor, seen: Tensor, known: Tensor, widths: Tensor) -> Tensor:
        """Quantiles ``(N, horizon, K)`` of the steps after standardized windows.

        Args:
            z: windows ``(N, context)``, 0 where ``seen`` is False.
            seen: observed values ``(N, context)`` bool.
            known: periods that are usual for the data ``(N, 2)``, 0 for none.
            widths: widths of the intervals by the length of the history ``(5,)``.
        """
        pad = -z.shape[1] % self.patches.patch_len
        z, seen = F.pad(z, (pad, 0)), F.pad(seen, (pad, 0))
        periods = find_periods(z, seen, known)
        width = widths[(seen.sum(1)[:, None] >= torch.tensor(LENGTHS, device=z.device)).sum(1)]
        blocks = [self._block(z, seen, periods, width)]
        ahead, n_paths = self.patches.horizon, len(LEVELS[_PATHS])
        season_of = periods[:, 0].clamp(1, ahead)
        while len(blocks) * ahead < self.series.horizon:
            if len(blocks) == 1:
                z, seen, periods, width = (v.repeat_interleave(n_paths, 0) for v in (z, seen, periods, width))
            step = blocks[-1][..., _PATHS].transpose(1, 2).flatten(0, 1)  # (N paths, ahead)
            z = torch.cat([z, step], 1)[:, ahead:]
            seen = F.pad(seen, (0, ahead), value=True)[:, ahead:]
            following = self._block(z, seen, periods, width).unflatten(0, (-1, n_paths))
            mixed = _mixed(following.transpose(1, 2).flatten(2), n_paths)
            blocks.append(_no_narrower(mixed, blocks[-1], season_of))
        return torch.cat(blocks, 1)[:, : self.series.horizon]

    def _block(self, z: Tensor, seen: Tensor, periods: Tensor, width: Tensor) -> Tensor:
        """Rising quantiles ``(N, block, K)`` after the end of ``z: (N, T)``, with ``width: (N,)`` of the intervals."""
        last, forecasts = slice(z.shape[1] // self.patches.patch_len - 1, None), []
        for sign in (1, -1):
            found, naive, unit = self.patches(sign * z, seen, periods, last)
            rising = found[:, 0].sort(-1).values
            middle = rising[..., _MEDIAN : _MEDIAN + 1]
            rising = (middle + width[:, None, None] * (rising - middle)).clamp(-10, 10)
            forecasts.append(naive[:, 0, :, None] + unit[:, 0, None, None] * torch.sinh(rising))
        return (forecasts[0] - forecasts[1].flip(-1)) / 2

    def _load(self, weights: str) -> None:
        # imported here, since other models do not need it
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        inside = files("seqmix") / "weights" / f"{weights}.safetensors"
        path = Path(weights) if weights.endswith(".safetensors") else cast(Path, inside)
        if not path.is_file():
            raise ConfigError(f"no weights {weights!r}; use 'zeroshot', the path of a .safetensors file, or null")
        try:
            self.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as e:
            why = " ".join(str(e).split())[:200]
            raise DataError(f"{path} does not hold weights of this model ({why}); check d_model and n_layers") from e


def _no_narrower(block: Tensor, before: Tensor, season: Tensor) -> Tensor:
    """Quantiles ``(N, block, K)`` whose 80 % intervals are as wide in the first season as ``before`` in the last.

    The paths that the model goes on from have no noise, so that it is too sure of what follows.
    """
    steps = torch.arange(block.shape[1], device=block.device)
    first = (steps < season[:, None]).to(block.dtype)
    low, high = _PATHS.start, _PATHS.stop - 1
    now, then = (((q[..., high] - q[..., low]) * part).sum(1) for q, part in ((block, first), (before, first.flip(1))))
    factor = (then / now.clamp(min=1e-12)).clamp(min=1)[:, None, None]
    middle = block[..., _MEDIAN : _MEDIAN + 1]
    return middle + factor * (block - middle)


def _mixed(values: Tensor, n_paths: int) -> Tensor:
    """Quantiles ``(N, horizon, K)`` of equally likely forecasts, each by its quantiles, ``(N, horizon, paths K)``."""
    levels = values.new_tensor(LEVELS)
    # a quantile represents the probability mass nearest to it
    edges = torch.cat([levels.new_zeros(1), (levels[1:] + levels[:-1]) / 2, levels.new_ones(1)])
    values, order = values.sort(-1)
    weight = edges.diff().repeat(n_paths)[order] / n_paths
    position = weight.cumsum(-1) - weight / 2
    # a search by comparison, which every exported graph has
    right = (position.unsqueeze(-2) < levels[:, None]).sum(-1)
    right = right.clamp(1, values.shape[-1] - 1)
    low, high = position.gather(-1, right - 1), position.gather(-1, right)
    share = ((levels - low) / (high - low)).clamp(0, 1)
    return torch.lerp(values.gather(-1, right - 1), values.gather(-1, right), share)
