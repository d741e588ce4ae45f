"""GaussianImputer: linear imputation in closed form for every pattern of missing values."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.interpolation import check_reconstructs, interpolate
from seqmix.series import Series

Batch = dict[str, Tensor]

_SHRINKS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# variance of the level of a channel, in variances of its values: levels of new windows are other ones
_LEVEL = 1e3
# deviations beyond which a value is an outlier, and does not bend the covariances
_FAR = 6.0
# errors count up to this many times their 90 % quantile, and from what is a rounding
_FAR_ERROR, _ROUNDING = 2.0, 1e-6
# gates that are tried, from 0 to 1
_SHARES = 41
# validation windows of each batch that options are chosen on
_CHOSEN_ON = 8
# values of a Gaussian vector by default
_VALUES = 2048
# numbers of the systems of equations that are solved at a time
_MOST_NUMBERS = 1 << 24


@register_model(paper="Little and Rubin, 2002, Statistical Analysis with Missing Data", span=8)
class GaussianImputer(ForecastModel):
    """Imputation by the conditional mean of a Gaussian: the best linear estimate of the missing values of a window.

    All values of a window are one Gaussian vector, with mean and covariance of the training windows. Given its observed
    values o the missing ones m have the mean ``mu_m - P_mm^-1 P_mo (x_o - mu_o)``, with the precision matrix P: one
    system of equations for each window. The covariance is shrunk towards its diagonal; the level of each channel has a
    wide variance of its own, so that only differences to the level count. In training, values beyond six standard
    deviations count as that, and missing values leave out the pairs that they are in.

    ``share`` mixes the estimate with linear interpolation, for each channel. It, ``shrink``, and whether channels have
    covariances with each other, are chosen by the squared errors of the missing cells of validation windows, which are
    capped, so that a few outliers do not decide. Before the fit the estimate is linear interpolation.

    Shapes: ``(B, context, C) -> (B, context, C)``. Cost: O((span C)^2) for each window of the fit, O(m^3) for m missing
    values in an estimate.

    Args:
        span: time steps that are one Gaussian vector; windows are cut into such parts, which overlap by half. Default:
            the window, or the steps of 2,048 values where it has more.
        shrink: part of its variance that is added to the variance of each value. Default: chosen from 1e-4 to 1.

    Raises:
        ConfigError: if an option is out of range, or the horizon is not the window.

    Source: the conditional mean of the Gaussian, for example Little and Rubin, Statistical Analysis with Missing Data,
    sec. 11.2. Differs from it in: covariances of pairs in place of EM, the level, the share.
    """

    closed_form = True
    linear = True
    masked = True
    mixes_channels = True
    reconstructs = True

    def __init__(self, series: Series, *, span: int | None = None, shrink: float | None = None):
        super().__init__(series)
        check_reconstructs(self)
        check_at_least(2, span=span)
        if span is not None and span > series.context:
            raise ConfigError(f"span = {span} is longer than the window of {series.context} steps; leave it out")
        if shrink is not None and not 0 < shrink < math.inf:
            raise ConfigError(f"shrink must be above 0, got {shrink}; use for example 0.01, or leave it out")
        most = max(2, _VALUES // series.n_channels)
        self.span = min(series.context, most) if span is None else span
        self.shrinks = _SHRINKS if shrink is None else (shrink,)
        D = self.span * series.n_channels
        # in float64: rounded to float32 a precision matrix may no longer be positive
        self.precision = nn.Parameter(torch.eye(D, dtype=torch.float64))
        self.center = nn.Parameter(torch.zeros(D, dtype=torch.float64))
        self.share = nn.Parameter(torch.zeros(series.n_channels, dtype=torch.float64))  # (C,)

    @property
    def note(self) -> str:
        """Its span, where it is not the window."""
        return f"span {self.span}" if self.span < self.series.context else ""

    def forward(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Fill ``x: (B, context, C)`` where ``mask``, of its shape, is False; observed values stay."""
        if mask is None:
            return x
        lines = interpolate(x.masked_fill(~mask, 0), mask)
        return torch.where(mask, x, torch.lerp(lines.double(), self._estimate(x, mask), self.share).to(x.dtype))

    @torch.no_grad()
    def fit_closed_form(self, train: Iterable[Batch], val: Iterable[Batch]) -> None:
        """Fit mean and covariance to the training windows, and choose shrinkage and share on validation windows."""
        center, covariance = self._moments(train)
        self.center.copy_(center)
        held = list(_few(val)) or list(_few(train))
        found = []
        for each in self._structures(covariance):
            tried = []
            for shrink in self.shrinks:
                self._shrink(each, shrink)
                tried.append((*self._shares(held), shrink))
            found.append((*min(tried, key=lambda choice: float(choice[0].sum())), each))
        # compare ratios of errors, so that a noisy channel does not decide for the others
        _, share, shrink, each = min(found, key=lambda choice: float(choice[0].log().sum()))
        self._shrink(each, shrink)
        self.share.copy_(share)

    def _structures(self, covariance: Tensor) -> list[Tensor]:
        """The covariance, and that without covariances between channels: few windows show some that are not there."""
        C = self.series.n_channels
        same = torch.eye(C).repeat(self.span, self.span).to(covariance)
        return [covariance] if C == 1 else [covariance, covariance * same]

    def _moments(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and covariance ``(D, D)``, of pairs that were both observed."""
        D, complete = len(self.center), True
        sums, counts = self.center.new_zeros(D, D + 1), self.center.new_zeros(D, D + 1)
        for batch in batches:
            y, mask = self._parts(batch["y"]).double().clamp(-_FAR, _FAR), self._parts(batch["y_mask"])
            y = y.masked_fill(~mask, 0)
            seen = mask.double()
            one = torch.ones_like(y[:, :1])
            sums += y.T @ torch.cat([y, one], 1)
            if mask.all():
                counts += len(y)
            else:
                complete = False
                counts += seen.T @ torch.cat([seen, one], 1)
        mean = sums[:, -1] / counts[:, -1].clamp(min=1)
        covariance = sums[:, :-1] / counts[:, :-1].clamp(min=1) - mean[:, None] * mean
        if not complete:
            # covariances of different pairs may contradict each other
            values, vectors = torch.linalg.eigh(covariance)
            covariance = (vectors * values.clamp(min=0)) @ vectors.T
        return mean, covariance

    def _shrink(self, covariance: Tensor, shrink: float) -> None:
        """Set the precision matrix to that of the covariance with a wide level, shrunk towards its diagonal."""
        C = self.series.n_channels
        variance = covariance.diagonal().view(-1, C).mean(0).clamp(min=1e-6)  # (C,)
        level = torch.kron(torch.ones(self.span, self.span).to(covariance), (_LEVEL * variance).diag())
        regular = covariance + level + (shrink * variance).repeat(self.span).diag()
        self.precision.copy_(torch.cholesky_inverse(torch.linalg.cholesky(regular)))

    def _shares(self, held: list[Batch]) -> tuple[Tensor, Tensor]:
        """Capped squared error of each channel with its best share, and these shares, ``(C,)`` each."""
        missed, steps = [], []
        for batch in held:
            x, mask, y = batch["x"], batch["x_mask"], batch["y"]
            wanted = batch["y_mask"] & ~mask & (batch["weight"][:, None] > 0)
            lines = interpolate(x.masked_fill(~mask, 0), mask)
            missed.append((y - lines).double().masked_fill(~wanted, torch.nan).flatten(0, 1))
            steps.append((self._estimate(x, mask) - lines).flatten(0, 1))
        error, step = torch.cat(missed), torch.cat(steps)  # (N, C)
        tried = torch.linspace(0, 1, _SHARES, dtype=error.dtype, device=error.device)
        # by the errors of interpolation, so that it is the same whatever is chosen from
        far = (_FAR_ERROR * error.abs().nanquantile(0.9, 0)).nan_to_num(0).clamp(min=_ROUNDING)
        capped = torch.stack([(error - share * step).abs().minimum(far).square().nansum(0) for share in tried])
        least, best = capped.min(0)
        return least.clamp(min=torch.finfo(least.dtype).tiny), tried[best]

    def _estimate(self, x: Tensor, mask: Tensor) -> Tensor:
        """Conditional means of all missing cells ``(B, L, C)``, in float64; other cells are not to be used."""
        starts = self._starts(x.device)
        found = self._conditional(self._parts(x).double(), self._parts(mask)).view(len(x), -1, self.span, x.shape[2])
        # each step from the part whose middle is nearest
        rows = torch.arange(x.shape[1], device=x.device)
        part = (rows[:, None] - starts - (self.span - 1) / 2).abs().argmin(1)
        return found[:, part, rows - starts[part]]

    def _starts(self, device: torch.device) -> Tensor:
        """First steps of the parts of a window."""
        last = self.series.context - self.span
        first = torch.arange(0, last, max(1, self.span // 2), device=device)
        return torch.cat([first, torch.tensor([last], device=device)])

    def _parts(self, rows: Tensor) -> Tensor:
        """Parts of windows ``(B, L, C)`` as vectors ``(B n, span C)``."""
        parts = rows.unfold(1, self.span, 1)[:, self._starts(rows.device)]  # (B, n, C, span)
        return parts.transpose(2, 3).flatten(2).flatten(0, 1)

    def _conditional(self, x: Tensor, mask: Tensor) -> Tensor:
        """Conditional means of the missing values of vectors ``(N, D)``."""
        right = (self.center - x).masked_fill(~mask, 0) @ self.precision
        found, counts = torch.zeros_like(x), (~mask).sum(1)
        # vectors with as many missing values are solved together
        order = counts.argsort()
        while len(order) and counts[order[-1]]:
            m = int(counts[order[-1]])
            n = max(1, _MOST_NUMBERS // m**2)
            order, now = order[:-n], order[-n:]
            at = mask[now].int().argsort(dim=1, stable=True)[:, :m]  # (n, m): missing values first
            real = torch.arange(m, device=x.device) < counts[now, None]
            matrix = self.precision[at[:, :, None], at[:, None]]
            # padding rows of a vector are rows of the identity
            matrix = torch.where(real[:, :, None] & real[:, None], matrix, torch.eye(m).to(matrix))
            given = right[now].gather(1, at) * real
            solved = torch.cholesky_solve(given[..., None], torch.linalg.cholesky(matrix))[..., 0]
            found[now] = found[now].scatter(1, at, solved)
        return found + self.center


def _few(batches: Iterable[Batch]) -> Iterator[Batch]:
    """A few windows of each batch, evenly spread."""
    for batch in batches:
        step = max(1, len(batch["x"]) // _CHOSEN_ON)
        yield {name: value[::step] for name, value in batch.items()}
