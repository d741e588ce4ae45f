"""TSM2, the time-series model of MambaMixer (Behrouz et al., 2024, arXiv:2403.19888, sec. 5).

No code and no hyper-parameters were released: what the paper leaves open is an option here.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.mixers import Mamba, Mixer, MixerFactory, SelectiveToken
from seqmix.models.averaging import WeightedAveraging
from seqmix.models.dropout import Dropout
from seqmix.models.embed import PatchEmbedding, patch_sizes
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.heads import FlattenHead
from seqmix.models.norm import BatchNormLast, Norm2D
from seqmix.series import Series

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "joint": Norm2D,
    "layer": nn.LayerNorm,
    "tsmixer": partial(Norm2D, per_feature=True),
    "batch": BatchNormLast,
}


@register_model(paper="arXiv:2403.19888", d_model=8, n_layers=2, patch_len=4, patch_stride=2, d_state=4)
class TSM2(ForecastModel):
    """TSM2: selective state spaces over time, then over variates, with weighted averaging of earlier outputs.

    Patches of each variate, n layers of a causal time mixer and a bidirectional variate mixer, norm, one linear
    head shared by the variates. The scan over variates depends on their order: keep the columns in one order.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: O(C N D (D + d_state) expand) per layer, for N patches: linear in time steps and in variates.

    Args:
        d_model: features per patch D.
        n_layers: number of layers, each a time mixer and a variate mixer.
        patch_len: patch length, in time steps. Default: 16, or the context where that is shorter.
        patch_stride: time steps between the starts of patches. Default: half of the patch length.
        d_state: state size of each scan.
        d_conv: width of the convolution before each scan, in patches or variates.
        expand: inner width of a mixer as a multiple of ``d_model``.
        dropout: dropout probability on the output of each mixer.
        head_dropout: dropout probability on the input of the head.
        norm: statistics over ``(C, N, D)`` of a sample (``joint``), over D (``layer``: the only one that keeps time
            causal), over ``(C, N)`` per feature (``tsmixer``), or over the batch per feature (``batch``).
        averaging: feed each mixer a learned weighted sum of all earlier outputs, not only the latest.
        init_avg: initial weights: ``residual`` is a plain residual stack, ``mean`` the mean of all earlier outputs.
        residual: add the input of each mixer to its output.
        variate_mixer: mix over variates; without it they are forecast independently.
        time_bidirectional: scan time in both directions, as drawn in figure 3, not forward only, as in the text.
        position_embedding: learn a vector per patch position.
        shuffle_variates: in training, draw a new order of the variates for each batch.
        d_future: features per future time step in the block that mixes the known-future inputs.

    Raises:
        ConfigError: if a patch is longer than the context, there is no layer, ``norm`` or ``init_avg`` is not known, or
            past inputs have no variate mixer to reach the forecast.
        ValueError: if covariates are missing that the model was built for.

    Source: Behrouz et al., 2024, arXiv:2403.19888, sec. 5, eq. 21-24. Differs from the original code in: none was
    released. Our choices: patches, the axes of the 2-D norm, residuals, initial averaging weights, the head, a
    whole layer on the embedded known-future inputs, and past inputs as variates.
    """

    covariates = "used"
    mixes_channels = True
    searched: ClassVar = {**ForecastModel.searched, "d_model": (16, 32, 64)}

    def __init__(
        self,
        series: Series,
        *,
        d_model: int = 16,
        n_layers: int = 2,
        patch_len: int | None = None,
        patch_stride: int | None = None,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dropout: float = 0.1,
        head_dropout: float = 0.1,
        norm: Literal["joint", "layer", "tsmixer", "batch"] = "joint",
        averaging: bool = True,
        init_avg: Literal["residual", "mean"] = "residual",
        residual: bool = True,
        variate_mixer: bool = True,
        time_bidirectional: bool = False,
        position_embedding: bool = False,
        shuffle_variates: bool = False,
        d_future: int = 8,
    ):
        super().__init__(series)
        patch_len, patch_stride = patch_sizes(series.context, patch_len, patch_stride)
        sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand, "d_future": d_future}
        check_at_least(1, n_layers=n_layers, **sizes)
        if series.n_past and not variate_mixer:
            raise ConfigError(
                f"past inputs reach forecasts through the variate mixer, got n_past = {series.n_past} without it; "
                "use variate_mixer=True, or switch them off in the data"
            )
        check_choice("norm", norm, tuple(_NORMS))
        check_choice("init_avg", init_avg, ("residual", "mean"))
        self.shuffle_variates = shuffle_variates
        self.n_variates = series.n_channels + series.n_past
        scan = partial(SelectiveToken, bidirectional=True, d_state=d_state, d_conv=d_conv, expand=expand)
        trunk = partial(
            _Trunk,
            time_mixer=scan if time_bidirectional else partial(Mamba, d_state=d_state, d_conv=d_conv, expand=expand),
            variate_mixer=scan if variate_mixer else None,
            norm=_NORMS[norm],
            dropout=dropout,
            averaging=averaging,
            init_avg=init_avg,
            residual=residual,
        )
        self.future = _Future(series, d_future, trunk(d_future, 1)) if series.n_future else None
        self.static = nn.Linear(series.n_static, series.context) if series.n_static else None
        self.embed = PatchEmbedding(d_model, patch_len=patch_len, patch_stride=patch_stride)
        n_patches = self.embed.n_patches(series.context * (1 + (series.n_future > 0) + (series.n_static > 0)))
        self.position = nn.Parameter(0.02 * torch.randn(n_patches, d_model)) if position_embedding else None
        self.trunk = trunk(d_model, n_layers)
        self.norm = _NORMS[norm](d_model)
        self.head = FlattenHead(n_patches * d_model, series.horizon, series.n_outputs, dropout=head_dropout)

    def heads(self) -> list[nn.Module]:
        """The head."""
        return [self.head]

    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        if self.series.n_past:
            x = torch.cat([x, self.given("past", past)], -1)  # (B, context, M) for M = C + P variates
        x = self._join(x.transpose(1, 2), future, static)  # (B, M, T)
        if self.shuffle_variates and self.training:
            order = torch.randperm(self.n_variates, device=x.device)
            y = self._forecast(x[:, order])[:, :, order.argsort()]
        else:
            y = self._forecast(x)
        return y[:, :, : self.series.n_channels] if self.series.n_past else y

    def _join(self, x: Tensor, future: Tensor | None, static: Tensor | None) -> Tensor:
        """Append the projected covariates to the window along time, eq. 24."""
        parts = [x]
        if self.future is not None:
            parts.append(self.future(self.given("future", future), self.n_variates))
        if self.static is not None:
            # past inputs have no static ones
            parts.append(F.pad(self.static(self.given("static", static)), (0, 0, 0, self.series.n_past)))
        return torch.cat(parts, -1)

    def _forecast(self, x: Tensor) -> Tensor:
        x = self.embed(x)  # (B, C, N, D)
        if self.position is not None:
            x = x + self.position
        return self.head(self.norm(self.trunk(x)))


class _Trunk(nn.Module):
    """Time and variate mixers in turn, ``(B, M, N, D) -> (B, M, N, D)``; M variates, N patches."""

    def __init__(
        self,
        d_model: int,
        n_layers: int,
        *,
        time_mixer: MixerFactory,
        variate_mixer: MixerFactory | None,
        norm: Callable[[int], nn.Module],
        dropout: float,
        averaging: bool,
        init_avg: Literal["residual", "mean"],
        residual: bool,
    ):
        super().__init__()
        self.mixes_variates = variate_mixer is not None
        last = "token" if variate_mixer is None else "channel"
        branches = []
        for i in range(1, n_layers + 1):
            n_variates = 0 if variate_mixer is None else i
            source = WeightedAveraging(i, n_variates, last=last, init=init_avg) if averaging else None
            branches.append(_Branch(time_mixer(d_model), norm(d_model), dropout, residual, source, variates=False))
            if variate_mixer is not None:
                source = WeightedAveraging(i + 1, i, last="token", init=init_avg) if averaging else None
                branches.append(
                    _Branch(variate_mixer(d_model), norm(d_model), dropout, residual, source, variates=True)
                )
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        times, variates = [x], [x] if self.mixes_variates else []
        for branch in self.branches:
            x = branch(x, times, variates)
            (variates if branch.variates else times).append(x)
        return x


class _Branch(nn.Module):
    """``x + drop(mixer(norm(x)))`` along time or along variates, with its weighted input."""

    def __init__(
        self,
        mixer: Mixer,
        norm: nn.Module,
        dropout: float,
        residual: bool,
        source: WeightedAveraging | None,
        *,
        variates: bool,
    ):
        super().__init__()
        self.source, self.norm, self.mixer, self.drop = source, norm, mixer, Dropout(dropout)
        self.residual, self.variates, self.axis = residual, variates, "variates" if variates else "patches"

    def forward(self, x: Tensor, times: list[Tensor], variates: list[Tensor]) -> Tensor:
        if self.source is not None:
            x = self.source(times, variates)
        B, M, N, _ = x.shape
        y = self.norm(x)
        if self.variates:
            y = self.mixer(rearrange(y, "b m n d -> (b n) m d"))
            y = y.unflatten(0, (B, N)).transpose(1, 2)
        else:
            y = self.mixer(y.flatten(0, 1)).unflatten(0, (B, M))
        y = self.drop(y)
        return x + y if self.residual else y


class _Future(nn.Module):
    """Known-future inputs as one row of ``context`` numbers per variate, eq. 22-23."""

    def __init__(self, series: Series, d_future: int, trunk: nn.Module):
        super().__init__()
        self.horizon = series.horizon
        self.embed = nn.Linear(series.n_future, d_future)
        self.trunk = trunk
        self.proj = nn.Linear(series.horizon * d_future, series.context)

    def forward(self, future: Tensor, n_channels: int) -> Tensor:
        z = self.embed(future[:, -self.horizon :]).unsqueeze(1).expand(-1, n_channels, -1, -1)  # (B, M, H, D)
        return self.proj(self.trunk(z).flatten(2))
