"""Training options of estimators, seeds, and forecasts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqmix.errors import ConfigError
from seqmix.forecasting.machine import trainer_options, where
from seqmix.memory import advising
from seqmix.series import Series
from seqmix.tasks.predictor import WindowPredictor

Batch = dict[str, Tensor]

# most windows of a forward pass, and most of their values
_EVAL_WINDOWS, _EVAL_VALUES = 1024, 1 << 19
# most steps, peak learning rate and windows per step of fine-tuning
_FINE_TUNING = (200, 2e-4, 64)
_TURN = RLock()


@dataclass(frozen=True)
class Training:
    """Training options, which are not needed after training.

    Args:
        max_steps: maximum number of optimizer steps; 0 uses a pretrained model as it is.
        batch_size: windows per step.
        learning_rate: peak learning rate.
        patience: validations without improvement after which training stops. None: train to the end.
        device: device of the model during training and afterwards.
        stage: purpose of the training, for progress messages. Default: show no progress.
        trainer_kwargs: options of the Lightning Trainer, which override ours.
        lower: other options that memory grows with, and their values, for the message when it runs out.
        others: other ways to save memory, for the same message.
    """

    max_steps: int
    batch_size: int
    learning_rate: float
    patience: int | None
    device: torch.device
    stage: str | None
    trainer_kwargs: Mapping[str, Any]
    lower: Mapping[str, object] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, object]:
        """Options that memory grows with, and their values."""
        return {"batch_size": self.batch_size, **self.lower}


def make_training(options: Mapping[str, Any], stage: str, *, joint: bool, pretrained: bool) -> Training:
    """Training options from those of the Forecaster.

    Args:
        options: those of the Forecaster, as plain values.
        stage: purpose of the training.
        joint: the series are channels of one.
        pretrained: the model is fine-tuned.

    Raises:
        ConfigError: those of ``trainer_options``.
    """
    steps, rate, size = _FINE_TUNING if pretrained else (1000, 5e-3, 256)
    given = trainer_options(options)
    progress = given.pop("enable_progress_bar", options["verbose"])
    return Training(
        max_steps=steps if options["max_steps"] is None else options["max_steps"],
        batch_size=options["batch_size"] or (32 if joint else size),
        learning_rate=options["learning_rate"] or rate,
        patience=options["early_stopping"],
        device=where(options["device"]),
        stage=stage if progress else None,
        trainer_kwargs=given,
    )


def eval_batch(series: Series) -> int:
    """Windows per forward pass: 1,024, fewer where they are wide, with many channels or covariates."""
    width = (series.context + series.horizon) * (series.n_channels + series.n_past + series.n_future)
    return min(_EVAL_WINDOWS, max(64, _EVAL_VALUES // width))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from ``seed`` alone; torch has one generator, so that threads take turns."""
    with _TURN, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def building(name: str, seed: int) -> Iterator[None]:
    """Weights from ``seed`` alone; a model that does not take its options is a ``ConfigError``."""
    with seeded(seed):
        try:
            yield
        except TypeError as e:
            raise ConfigError(f"{name} cannot be built: {e}; see model_kwargs") from e


def forecast(
    predictor: WindowPredictor, batches: Iterable[Batch], quantiles: Sequence[float] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts of the batches, ``(N, horizon, C)``, and their quantiles, ``(N, horizon, C, K)``.

    They are computed on the device of the predictor.
    """
    predictor.eval()
    points, levels = [], []
    with torch.inference_mode():
        for batch in batches:
            with advising({}, "forecast fewer series at a time"):
                found = predictor({name: rows.to(predictor.device) for name, rows in batch.items()})
                points.append(predictor.point(found).float().cpu().numpy())
                if quantiles:
                    levels.append(predictor.quantiles_of(found, quantiles).cpu().numpy())
    return np.concatenate(points), np.concatenate(levels) if levels else np.zeros((0,))
