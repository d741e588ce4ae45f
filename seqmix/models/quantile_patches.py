"""QuantilePatches: the causal patch model of quantiles in ZeroShot, trained at every patch of a series."""

from functools import partial

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers import MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP
from seqmix.models.origins import DRIFT, N_OTHERS, origins

#: quantiles that are forecast
LEVELS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class QuantilePatches(nn.Module):
    """Quantiles of the steps after every patch of a series, by a causal backbone on patches.

    Everything is in units of the series itself at the origin: a value y is ``asinh((y - naive) / unit)``, where naive
    is the seasonal naive forecast of its step and unit the mean absolute error of that forecast so far. The forecast is
    the sum of a head's output and of simple forecasts with gates from the state, so that an untrained model is close
    to the seasonal naive forecast, with the spread of its errors.

    Shapes: ``(N, T) -> (N, n, horizon, K)`` for n origins. Cost: that of the backbone on N sequences of T / patch_len.

    Args:
        mixer: factory of the sequence mixer of every block; causal.
        d_model: width.
        n_layers: number of blocks.
        expand: inner width of the channel mixers, in widths.
        patch_len: time steps of a patch.
        horizon: steps that are forecast at once.

    Source: dense supervision with causal statistics and seasonal skip are our own; quantile loss on patches after
    Chronos-Bolt, Ansari et al., 2024, arXiv:2403.07815.
    """

    def __init__(
        self, *, mixer: MixerFactory, d_model: int, n_layers: int, expand: float, patch_len: int, horizon: int
    ):
        super().__init__()
        check_at_least(1, d_model=d_model, patch_len=patch_len, block=horizon)
        self.patch_len, self.horizon = patch_len, horizon
        # values in two units and mask of the patch, simple forecasts, facts of the origin
        width = 3 * patch_len + N_OTHERS * horizon + 11
        self.embed = nn.Sequential(nn.Linear(width, d_model), nn.SiLU(), nn.Linear(d_model, d_model))
        gated = partial(ChannelMLP, gated=True, expand=expand, activation=nn.SiLU)
        self.backbone = Backbone(d_model, n_layers, mixer=mixer, channel_mixer=gated, norm="rms")
        late = [m.label for m in self.backbone.mixers if not m.causal]
        if late:
            raise ConfigError(f"{late[0]} sees later positions, and every patch is an origin; use a causal mixer")
        self.head = nn.Linear(d_model, horizon * len(LEVELS))
        # of the other simple forecasts, and of the level
        self.gate = nn.Linear(d_model, (N_OTHERS + 1) * horizon)
        normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(LEVELS))
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.gate.weight.mul_(0.1)
            self.head.bias.copy_(normal.repeat(horizon))
            self.gate.bias.copy_(torch.tensor([0.2, 0.1, 0.1, 0.0, 0.1, 0.1, 0.0]).repeat_interleave(horizon))

    def forward(
        self, x: Tensor, mask: Tensor, periods: Tensor, at: slice = slice(None)
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Forecast from series of ``x: (N, T)``, 0 where ``mask`` is False, T a multiple of the patch length.

        Args:
            x: series.
            mask: observed values ``(N, T)`` bool.
            periods: two periods ``(N, 2)``, 0 for none.
            at: patches after which to forecast. Default: all.

        Returns:
            Quantiles ``(N, n, horizon, K)`` in units of the origin, naive ``(N, n, horizon)``, unit ``(N, n)``.
        """
        N, P = x.shape[0], self.patch_len
        ends = torch.arange(P, x.shape[1] + 1, P, device=x.device)
        known = origins(x, mask, periods, ends, self.horizon)
        unit, last = known.unit[..., None], known.last[..., None]
        patch, observed = (v.view(N, len(ends), P) for v in (x, mask))
        age, periods = known.age.to(x.dtype), known.periods.to(x.dtype)
        simple = torch.asinh((known.others - known.naive) / unit)  # (6, N, n, horizon)
        level = torch.asinh((known.mean[..., None] - known.naive) / unit)
        deviation = known.deviation[..., None].clamp(min=1e-6)
        parts = [
            torch.asinh((patch - last) / unit) * observed,
            torch.asinh((patch - known.mean[..., None]) / deviation) * observed,
            observed.to(x.dtype),
            torch.asinh((known.naive - last) / unit),
            *(part for k, part in enumerate(simple) if k != DRIFT),
            torch.asinh((known.mean[..., None] - last) / unit),
            torch.asinh(known.drift[..., None] / unit * periods[..., :1]),
            torch.log(deviation / unit).clamp(-5, 5) / 2,
            torch.log1p(known.seen)[..., None] / 4,
            torch.log1p(age)[..., None] / 4,
            torch.log(periods) / 4,
            (periods > 1).to(x.dtype),
            torch.log1p(age[..., None] / periods) / 4,
        ]
        state = self.backbone(self.embed(torch.cat(parts, -1)))[:, at]  # (N, n, D)
        gates = self.gate(state).unflatten(-1, (N_OTHERS + 1, self.horizon))
        center = torch.einsum("gnth,ntgh->nth", torch.cat([simple[:, :, at], level[None, :, at]]), gates)
        found = self.head(state).unflatten(-1, (self.horizon, len(LEVELS))) + center[..., None]
        return found, known.naive[:, at], known.unit[:, at]

    def loss(self, x: Tensor, mask: Tensor, periods: Tensor, at: slice = slice(None)) -> Tensor:
        """Mean pinball loss ``()`` over the origins ``at`` of series ``x: (N, T + horizon)``; see ``loss_sums``."""
        T = x.shape[1] - self.horizon
        total, weight = self.loss_sums(self(x[:, :T], mask[:, :T], periods, at), x, mask, at)
        return total / weight.clamp(min=1)

    def loss_sums(
        self, forecast: tuple[Tensor, Tensor, Tensor], x: Tensor, mask: Tensor, at: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the pinball loss in units of the series, and sum of the weights, each ``()``.

        An origin needs three observed values. Near steps weigh more: 1 at the first, a third at the 64th. The weight
        of a series grows with the root of its number of origins, so that long ones do not hide the short.
        """
        P, H = self.patch_len, self.horizon
        found, naive, unit = forecast
        truth, there = (v.unfold(1, H, P)[:, 1:][:, at] for v in (x, mask))  # (N, n, horizon)
        error = torch.asinh((truth - naive) / unit[..., None])[..., None] - found
        levels = error.new_tensor(LEVELS)
        enough = (mask[:, :-H].cumsum(1)[:, P - 1 :: P] >= 3)[:, at]
        near = 1 / (1 + torch.arange(H, device=x.device) / 32)
        origins_of = enough.sum(1).clamp(min=1)[:, None, None]
        weight = there * enough[..., None] * near * origins_of**-0.5
        loss = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
        return (loss * weight).sum(), weight.sum()
