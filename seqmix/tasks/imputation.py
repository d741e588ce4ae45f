"""The imputation task: any forecasting model whose horizon is the window fills hidden cells."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.models import ForecastModelFactory
from seqmix.models.interpolation import LastValue, LinearInterpolation, SeasonalInterpolation, WindowMean, interpolate
from seqmix.models.norm import window_moments
from seqmix.models.residual import start_at_zero
from seqmix.series import Series
from seqmix.tasks._baselines import trained
from seqmix.tasks._closed_form import batches_of
from seqmix.tasks._gate import GateSums
from seqmix.tasks._hidden import PATTERNS, Hiding, Pattern
from seqmix.tasks._normalize import WindowNorm
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Score, Table
from seqmix.tasks.task import Task, require_facts

Batch = dict[str, Tensor]

_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.01, warmup=0.0)


class Imputation(Task):
    """Imputation of missing values of windows ``(B, context, C)`` from the observed ones.

    A batch is ``{"x": (B, L, C), "x_mask": (B, L, C), "window": (B,)}``: values, 0 where missing; True where a value
    was observed; the number of each window. The task hides a part of the observed cells. Errors are those of the hidden
    cells only, never of cells that were missing before, summed over the whole split and divided by their count.

    In validation and test the hidden cells depend on ``mask_seed`` and the number of the window alone, so that they are
    the same for every model and batch size; in training they are drawn anew in every epoch.

    ``forward`` reads ``x`` and ``x_mask`` as they are and gives a value for every cell; nothing is hidden there. A
    channel without any observed value in a window gets what the model makes of its mean in the training rows; the
    simple baselines give that mean.

    Args:
        model: model class, ``functools.partial`` or config entry, built with a horizon of the length of the window.
        series: the facts of the data, linked from the datamodule; a checkpoint holds them as a dict.
        pattern: pattern of hidden cells: each ``point`` on its own, a ``subsequence`` of one channel, a ``block`` of
            all channels at once, or one of the three in each window (``mixed``).
        rate: share of the observed cells that is hidden, between 0 and 1.
        run: length of subsequences and blocks, in time steps. Default: an eighth of the window.
        mask_seed: seed of the hidden cells.
        loss: squared error of the ``hidden`` cells, or ``joint``: plus that of the observed ones, as in SAITS.
        fill: what the model sees in missing cells: ``zero`` (after normalization), the ``mean`` of the window, or
            linear ``interpolation``.
        mask_input: give the model the mask of the observed cells as further channels, if channels meet in it.
        residual: train the model on the residual of another imputation: ``true`` for linear interpolation, or a config
            entry, for example ``GaussianImputer``. The model sees its values in missing cells, and its heads are 0
            at the start. Each validation chooses the factor of the correction, the gate.
        normalize: ``window`` removes mean and standard deviation of the observed values of each window before the model
            and puts them back; ``none`` leaves the window as it is.

    Raises:
        ConfigError: if options contradict each other or are out of range.

    Source: Du et al., 2023, arXiv:2202.08516, eq. 12 to 16 (joint loss). Differs from the Time-Series Library in: masks
    do not depend on the batch, hide cells that were observed only, and stay the same in validation and test; runs and
    blocks.
    """

    metrics = ("mse", "mae")
    counted = "cells"
    facts = ("context", "pattern", "rate")
    extent = "{context} steps, {rate:g} hidden by {pattern}"
    table = Table("imputation", ("context", "pattern", "rate"), "steps, pattern, rate")
    chooses_baselines = True

    gate: Tensor | None
    gate_t: Tensor | None

    def __init__(
        self,
        model: ForecastModelFactory,
        series: Series | dict[str, int],
        *,
        pattern: Pattern = "point",
        rate: float = 0.25,
        run: int | None = None,
        mask_seed: int = 0,
        loss: Literal["hidden", "joint"] = "joint",
        fill: Literal["zero", "mean", "interpolation"] = "interpolation",
        mask_input: bool = False,
        residual: bool | ForecastModelFactory = False,
        normalize: Literal["none", "window"] = "window",
        optim: Optim = _OPTIM,
        patience: int | None = 3,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, series=series)
        series = series if isinstance(series, Series) else Series(**series)
        self.hparams["series"] = asdict(series)
        self.series = replace(series.without_covariates(), horizon=series.context)
        self.hiding = _hiding(pattern, rate, run, mask_seed, series.context)
        check_choice("loss", loss, ("hidden", "joint"))
        check_choice("fill", fill, ("zero", "mean", "interpolation"))
        check_choice("normalize", normalize, ("none", "window"))
        self.joint, self.fill, self.mask_input = loss == "joint", fill, mask_input
        self.model = model(replace(self.series, n_channels=(1 + mask_input) * series.n_channels))
        if mask_input and not self.model.mixes_channels:
            raise ConfigError(
                "mask_input gives the mask as further channels, and channels do not meet in "
                f"{self.model.label}; leave it out, or use a model in which they do"
            )
        self.base = None
        if residual:
            self.base = (LinearInterpolation if residual is True else residual)(self.series).requires_grad_(False)
            start_at_zero(self.model)
        # gate of the correction, and the t-statistic of its gain
        for name in ("gate", "gate_t"):
            self.register_buffer(name, torch.zeros(series.n_channels) if residual else None)
        # those of one validation that chooses the gate
        self.gate_sums: GateSums | None = None
        self.norm = WindowNorm(normalize, self.series, season=1, affine=False, counts=False)
        # squared error, absolute error, hidden cells: sums over one pass of a loader
        self.sums = torch.zeros(3, dtype=torch.float64)

    @property
    def label(self) -> str:
        return self.model.label

    def facts_of(self, data: Any) -> dict[str, Any]:
        """Window length, and how cells are hidden."""
        return {"context": data.context, "pattern": self.hiding.pattern, "rate": self.hiding.rate}

    def forward(self, batch: Batch) -> Tensor:
        """A value for every cell of ``x: (B, context, C)``, from those where ``x_mask`` is True."""
        base = None if self.base is None else self.base(batch["x"], mask=batch["x_mask"])
        return self._reconstruct(batch, base, None if self.training else self.gate)

    def _reconstruct(self, batch: Batch, base: Tensor | None, gate: Tensor | None) -> Tensor:
        """Values of all cells, from a base with the share ``gate`` of the correction."""
        mask = batch["x_mask"]
        x, stats = self.norm(batch["x"].masked_fill(~mask, 0), mask)
        level, scale = (0.0, 1.0) if stats is None else stats
        if base is not None:
            # the scale of a window that does not vary is 0
            x = torch.where(mask | (scale == 0), x, (base - level) / scale)
        elif self.fill == "interpolation":
            x = interpolate(x, mask)
        elif self.fill == "mean":
            x = torch.where(mask, x, window_moments(x, mask)[0])
        C, seen = x.shape[2], mask
        if self.mask_input:
            x, seen = torch.cat([x, mask.to(x.dtype)], 2), torch.cat([mask, torch.ones_like(mask)], 2)
        y = self.model(x, mask=seen)[..., :C] * scale
        if base is None:
            return y + level
        return base + (y if gate is None else gate * y)

    def example(self) -> dict[str, Batch]:
        """One window of zeros, all observed."""
        x = torch.zeros(1, self.series.context, self.series.n_channels)
        return {"batch": {"x": x, "x_mask": torch.ones_like(x).bool()}}

    def hide(self, batch: Batch, epoch: int) -> tuple[Batch, Tensor]:
        """The batch without the cells that are hidden, and these cells ``(B, context, C)``.

        Args:
            batch: values, mask of the observed ones, numbers of the windows.
            epoch: of training, from 1; 0 for validation and test.
        """
        x = batch["x"]
        observed = batch.get("x_mask", torch.ones_like(x, dtype=torch.bool))
        hidden = self.hiding.hidden(observed, batch["window"], epoch)
        left = observed & ~hidden
        return {"x": x.masked_fill(~left, 0), "x_mask": left}, hidden

    def on_fit_start(self) -> None:
        """Fit closed-form parts; a model without others takes no gradient steps."""
        if self.base is not None:
            # the base of a correction sees windows that are not normalized
            self.base.fit_closed_form(*self._batches(None))
        self.model.fit_closed_form(*self._batches(self.norm))
        if self.model.closed_form:
            self.trainer.fit_loop.max_epochs = 0

    def _batches(self, norm: WindowNorm | None) -> tuple[Iterable[Batch], Iterable[Batch]]:
        """Training and validation batches for a closed form."""
        train, val = (partial(self._pair, epoch=epoch) for epoch in (1, 0))
        return batches_of(self.trainer, norm, self.device, train=train, val=val)

    def _pair(self, batch: Batch, epoch: int) -> Batch:
        """The batch as inputs ``x`` and targets ``y``."""
        left, hidden = self.hide(batch, epoch)
        return {**left, "y": batch["x"], "y_mask": left["x_mask"] | hidden}

    def loss_of(self, batch: Batch) -> Tensor:
        """Mean squared error of the hidden cells; of the observed ones too with the joint loss."""
        left, hidden = self.hide(batch, self.current_epoch + 1)
        squared = (self(left) - batch["x"]).float().square()
        loss = _mean(squared, hidden)
        return loss + _mean(squared, left["x_mask"]) if self.joint else loss

    def add_batch(self, batch: Batch) -> None:
        """Add squared error, absolute error and number of the hidden cells of one batch."""
        left, hidden = self.hide(batch, 0)
        error = (self(left) - batch["x"]).float()[hidden].double()
        self.sums += torch.stack([error.square().sum(), error.abs().sum(), hidden.sum()]).cpu()

    def on_validation_epoch_start(self) -> None:
        """Begin the sums anew; a validation of a training chooses the gate of a correction."""
        super().on_validation_epoch_start()
        chosen = self.base is not None and self.trainer.state.fn == "fit"
        self.gate_sums = GateSums(self.series.n_channels, each=True) if chosen else None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the sums, or to those that choose the gate."""
        if self.base is None or self.gate_sums is None:
            super().validation_step(batch, batch_idx)
            return
        if "place" not in batch:
            raise ConfigError(
                "the gate of a correction is chosen by blocks of time, and the validation batches do not say where "
                "they are; add 'place', the part of the validation time before each window, (B,)"
            )
        left, hidden = self.hide(batch, 0)
        base = self.base(left["x"], mask=left["x_mask"])
        correction = self._reconstruct(left, base, None) - base
        self.gate_sums.add((batch["x"] - base).float(), correction.float(), hidden.float(), batch["place"])

    def totals(self, stage: str) -> list[Tensor]:
        """The sums, or those that choose the gate."""
        return self.gate_sums.totals() if stage == "val" and self.gate_sums is not None else [self.sums]

    def remarks(self) -> dict[str, float]:
        """Mean gate of a correction and mean t-statistic of its gain."""
        found = {"gate": self.gate, "gate_t": self.gate_t}
        return {name: float(value.mean()) for name, value in found.items() if value is not None}

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Mean squared and absolute error of the hidden cells, with the gate that a validation has just chosen."""
        if stage == "val" and self.gate_sums is not None:
            gate, t = self.gate_sums.choose()
            assert self.gate is not None and self.gate_t is not None
            self.gate.copy_(gate)
            self.gate_t.copy_(t)
            mse, mae = self.gate_sums.errors(gate)
            return {"mse": mse, "mae": mae}, float(self.gate_sums.squares[3].sum())
        squared, absolute, cells = self.sums.tolist()
        if not cells:
            raise ConfigError(
                f"no cell was hidden with rate = {self.hiding.rate}; raise model.rate, or give more observed values"
            )
        return {"mse": squared / cells, "mae": absolute / cells}, cells

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """Mean, last value, linear and seasonal interpolation, or the chosen models, with the same hidden cells."""
        if chosen is None:
            chosen = [WindowMean, LastValue, LinearInterpolation]
            chosen += [SeasonalInterpolation] if 1 < self.series.season <= self.series.context // 2 else []
        same = self.hiding._asdict()
        same["mask_seed"] = same.pop("seed")
        tasks = (Imputation(factory, self.series, normalize="none", **same) for factory in chosen)
        return [trained(task, data, self.trainer, seed) for task in tasks]

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Truth ``y``, imputed values ``yhat``, each ``(B, context, C)``, and which cells were ``hidden``."""
        left, hidden = self.hide(batch, 0)
        return {"y": batch["x"], "yhat": self(left).float(), "hidden": hidden, "window": batch["window"]}

    def prediction_rows(self, batch: Batch, first: int, data: Any) -> pd.DataFrame:
        """A row for each hidden cell, in the units of the data."""
        window, step, channel = batch["hidden"].nonzero(as_tuple=True)
        rows = {"window": batch["window"][window], "step": step + 1}
        frame = pd.DataFrame({name: value.cpu().numpy() for name, value in rows.items()})
        channel = channel.cpu()
        frame["channel"] = np.asarray(data.channels)[channel.numpy()]
        for name in ("y", "yhat"):
            values = batch[name][batch["hidden"]].cpu()
            frame[name] = (values * data.std[channel] + data.mean[channel]).numpy()
        return frame


def _hiding(pattern: Pattern, rate: float, run: int | None, seed: int, context: int) -> Hiding:
    check_choice("pattern", pattern, PATTERNS)
    check_at_least(1, run=run)
    if not 0 < rate < 1:
        raise ConfigError(f"rate = {rate} is not between 0 and 1; use for example rate=0.25")
    if run is not None and run > context:
        raise ConfigError(f"run = {run} is longer than the window of {context} steps; use a shorter one")
    return Hiding(pattern, rate, max(1, context // 8) if run is None else run, seed)


def _mean(squared: Tensor, cells: Tensor) -> Tensor:
    """Mean over some cells, 0 if there are none."""
    return (squared * cells).sum() / cells.sum().clamp(min=1)
