"""Training and running a forecasting task on panels: the part of the Forecaster that needs torch and lightning."""

import difflib
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from seqmix import mixers, models
from seqmix.data.series.panel import Panel
from seqmix.errors import ConfigError
from seqmix.tasks import Forecasting

Batch = dict[str, Tensor]

# windows that are forecast at a time
EVAL_BATCH = 1024


def model_factory(model: Any, options: dict[str, Any] | None) -> Callable[..., Any]:
    """What builds the model: from its name or that of a mixer, from a class, or from a ``functools.partial``.

    Raises:
        ConfigError: if there is no model or mixer of this name.
    """
    factory = _named(model) if isinstance(model, str) else model
    cls, _ = _class_of(factory)
    if isinstance(cls, type) and issubclass(cls, mixers.Mixer):
        factory = partial(models.MixerForecaster, mixer=factory)
    return partial(factory, **options) if options else factory


def column_names(given: Sequence[Any]) -> list[str]:
    """What results call each model: its class or mixer; the second of a name has 1 after it, the third 2."""
    names = [model if isinstance(model, str) else _class_of(model)[0].__name__ for model in given]
    return [name + (str(names[:i].count(name)) if name in names[:i] else "") for i, name in enumerate(names)]


def model_class(model: Any) -> type[models.ForecastModel]:
    """The class of the model, to ask for its facts; the base class for a function, which says nothing."""
    cls, _ = _class_of(model_factory(model, None))
    return cls if isinstance(cls, type) and issubclass(cls, models.ForecastModel) else models.ForecastModel


def without_revin(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The factory with the model's own window normalization off, unless asked for: the task has it, with masks."""
    cls, given = _class_of(factory)
    takes = isinstance(cls, type) and "revin" in signature(cls).parameters
    return partial(factory, revin=False) if takes and "revin" not in given else factory


def train(
    task: Forecasting,
    panel: Panel,
    *,
    max_steps: int,
    seed: int,
    device: str,
    verbose: bool,
    trainer_kwargs: dict[str, Any] | None,
) -> pd.DataFrame:
    """Train the task and put its best weights back; what each validation found."""
    best = _Best()
    if not any(p.requires_grad for p in task.parameters()):
        return best.frame()
    period = max(1, min(50, max_steps // 10))
    options: dict[str, Any] = {
        "accelerator": device,
        "devices": 1,
        "max_epochs": -1,
        "max_steps": max_steps,
        "val_check_interval": period,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 1.0 if panel.has_val else 0,
        "gradient_clip_val": 1.0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": verbose,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    given = dict(trainer_kwargs or {})
    callbacks = [best, *given.pop("callbacks", [])]
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        trainer = pl.Trainer(**{**options, **given, "callbacks": callbacks})
        trainer.fit(task, panel)
    best.restore(task)
    task.to("cpu")
    return best.frame()


def forecast(
    task: Forecasting, batches: Iterable[Batch], quantiles: Sequence[float] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts of the batches, ``(N, horizon, C)``, and their quantiles, ``(N, horizon, C, K)``."""
    task.eval()
    points, levels = [], []
    with torch.inference_mode():
        for batch in batches:
            points.append(task.predict_step(batch, 0)["yhat"].numpy())
            if quantiles:
                levels.append(task.quantile_forecast(batch, list(quantiles)).numpy())
    return np.concatenate(points), np.concatenate(levels) if levels else np.zeros((0,))


class _Best(Callback):
    """Keep in memory the weights of the lowest validation error, and a line for each validation."""

    def __init__(self):
        self.score, self.weights, self.lines = math.inf, None, []
        self._losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Remember the loss."""
        self._losses.append(outputs["loss"].detach())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and record."""
        assert isinstance(pl_module, Forecasting)
        found = {name: float(trainer.callback_metrics[f"val_{name}"]) for name in pl_module.metrics}
        self._record(trainer.global_step, {f"val_{name}": value for name, value in found.items()})
        score = float(trainer.callback_metrics[pl_module.monitor])
        if score < self.score:
            self.score = score
            self.weights = {name: x.detach().clone() for name, x in pl_module.state_dict().items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what came after the last validation."""
        if self._losses:
            self._record(trainer.global_step, {})

    def restore(self, task: Forecasting) -> None:
        """Put the best weights back; the last ones stay where nothing was validated."""
        if self.weights is not None:
            task.load_state_dict(self.weights)
        elif any("val_mse" in line for line in self.lines) or not _finite(task):
            raise ConfigError("training diverged: the error is not finite; lower learning_rate, then fit again")

    def frame(self) -> pd.DataFrame:
        """The lines as a frame."""
        return pd.DataFrame(self.lines, columns=["step", "train_loss", "val_mse", "val_mae"])

    def _record(self, step: int, found: dict[str, float]) -> None:
        loss = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        self._losses.clear()
        self.lines.append({"step": step, "train_loss": loss, **found})


def _finite(task: Forecasting) -> bool:
    return all(bool(p.isfinite().all()) for p in task.parameters())


def _named(name: str) -> Any:
    if name in models.list_models():
        return models.model_facts(name)[0]
    if name in mixers.list_mixers():
        return mixers.mixer_facts(name).cls
    known = [*models.list_models(), *mixers.list_mixers()]
    near = difflib.get_close_matches(name.lower(), {k.lower(): k for k in known}, 1)
    hint = next((f"did you mean {k!r}? " for k in known if near and k.lower() == near[0]), "")
    raise ConfigError(f"no model or mixer {name!r}; {hint}there are {', '.join(models.list_models())}, and every mixer")


def _class_of(factory: Any) -> tuple[Any, dict[str, Any]]:
    """The class under layers of ``partial``, and the options they give."""
    given: dict[str, Any] = {}
    while isinstance(factory, partial):
        given, factory = {**factory.keywords, **given}, factory.func
    return factory, given


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Lightning says about itself; what concerns the user is said by us."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
        warnings.filterwarnings("ignore", module="lightning.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
