"""What comes out of a run: test metrics, the table beside the baselines, forecasts as a file."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from seqmix.commands._bag_of_words import bag_of_words
from seqmix.commands._table import print_table
from seqmix.commands._trigram import trigram_loss
from seqmix.environment import environment
from seqmix.errors import ConfigError
from seqmix.models import DLinear, ForecastModelFactory, SeasonalNaive
from seqmix.tasks import (
    CausalLM,
    Classification,
    Forecasting,
    ImageClassification,
    SentenceClassification,
    SentenceRegression,
    Task,
)
from seqmix.tasks.language import language_scores
from seqmix.tasks.run import device_name
from seqmix.tasks.sentences import class_metrics, score_metrics

Row = dict[str, Any]

_TITLES = {"mse": "MSE", "mae": "MAE"}


def score(trainer: pl.Trainer, task: Task, data: Any, ckpt_path: Path | None = None) -> Row:
    """Test ``task`` on all test batches of ``data``, and describe what was tested."""
    trainer.test(task, data, ckpt_path=ckpt_path, verbose=False)
    scores = {name.removeprefix("test_"): float(value) for name, value in trainer.callback_metrics.items()}
    parameters = sum(p.numel() for p in task.parameters() if p.requires_grad)
    return _row(task.label, task, data, trainer, scores, int(scores[task.counted]), parameters=parameters, seconds="")


def baseline_rows(
    factories: Sequence[ForecastModelFactory] | None, task: Task, data: Any, trainer: pl.Trainer, seed: int
) -> list[Row]:
    """Train each baseline with plain settings on the same data and test it with the same code.

    Beside classifiers stands the one that always names the commonest class of the training examples, beside causal
    language models one that counts triples of tokens, beside encoders of sentences one that counts words.

    Args:
        factories: the baselines; None: the last season again, and DLinear.
        task: the task of the run; only forecasts have a choice of baselines.
        data: the datamodule of the run.
        trainer: the trainer of the run, for its device.
        seed: seed set before each baseline.

    Raises:
        ConfigError: if baselines are given for another task.
    """
    if not isinstance(task, Forecasting):
        if factories:
            raise ConfigError(f"baselines are forecasters, {type(task).__name__} has none; leave --baselines out")
        if isinstance(task, CausalLM):
            return [_trigram_row(task, data, trainer)]
        if isinstance(task, SentenceClassification | SentenceRegression):
            return [_words_row(task, data, trainer)]
        labeled = isinstance(task, Classification | ImageClassification)
        return [_majority_row(task, data, trainer)] if labeled else []
    if factories is None:
        # a season longer than the window cannot be repeated: then the last value is
        season = data.season if data.season <= data.context else 1
        factories = [partial(SeasonalNaive, season=season), DLinear]
    return [_baseline_row(factory, data, trainer, seed) for factory in factories]


def _majority_row(task: Classification | ImageClassification, data: Any, trainer: pl.Trainer) -> Row:
    train, test = data.label_counts("train"), data.label_counts("test")
    # one example more of each class: none of the test is impossible
    log_share = ((train + 1) / (train + 1).sum()).double().log()
    scores = {
        "accuracy": float(test[train.argmax()] / test.sum()),
        "loss": -float((test * log_share).sum() / test.sum()),
    }
    return _row("Majority", task, data, trainer, scores, int(test.sum()))


def _trigram_row(task: CausalLM, data: Any, trainer: pl.Trainer) -> Row:
    started = time.perf_counter()
    train, test = data.documents("train"), data.documents("test")
    loss, size = trigram_loss(train.tokens, test.tokens[: test.bounds[-1]], test.bounds, data.vocab_size)
    tokens = int((test.bounds.diff() - 1).sum())
    scores = language_scores(loss, int(test.n_bytes.sum()), tokens)
    seconds = round(time.perf_counter() - started, 1)
    return _row("Trigram", task, data, trainer, scores, tokens, parameters=size, seconds=seconds)


def _words_row(task: SentenceClassification | SentenceRegression, data: Any, trainer: pl.Trainer) -> Row:
    started = time.perf_counter()
    classes = data.n_classes > 1
    labels, predicted, size = bag_of_words(data.examples("train"), data.examples("test"), classes)
    scores = class_metrics(labels, predicted, data.n_classes) if classes else score_metrics(labels, predicted)
    seconds = round(time.perf_counter() - started, 1)
    return _row("BagOfWords", task, data, trainer, scores, len(labels), parameters=size, seconds=seconds)


def _row(
    model: str,
    task: Task,
    data: Any,
    trainer: pl.Trainer,
    scores: Mapping[str, float],
    count: int,
    *,
    parameters: int = 0,
    seconds: float | str = 0.0,
) -> Row:
    """What results say of a model that was tested."""
    return {
        "model": model,
        "data": data.name,
        **{fact: getattr(data, fact) for fact in task.facts},
        task.counted: count,
        **{name: round(scores[name], 6) for name in task.metrics},
        "parameters": parameters,
        "commit": environment()["commit"],
        "device": device_name(trainer),
        "seconds": seconds,
    }


def _baseline_row(factory: Callable[..., Any], data: Any, like: pl.Trainer, seed: int) -> Row:
    pl.seed_everything(seed, workers=True, verbose=False)
    # covariates stay with the model under test: baselines take none
    task = Forecasting(factory, replace(data.series, n_future=0, n_static=0, n_past=0))
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_mse", save_weights_only=True)
        trainer = pl.Trainer(
            accelerator=like.strategy.root_device.type,
            devices=1,
            max_epochs=10,
            gradient_clip_val=1.0,
            logger=False,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            fast_dev_run=getattr(like, "fast_dev_run", False),
            callbacks=[best],
        )
        started = time.perf_counter()
        if any(p.requires_grad for p in task.parameters()):
            trainer.fit(task, data)
        seconds = time.perf_counter() - started
        row = score(trainer, task, data, Path(best.best_model_path) if best.best_model_path else None)
    return {**row, "seconds": round(seconds, 1)}


def print_rows(rows: Sequence[Row], task: Task, data: Any) -> None:
    """Print results as a table: one line a model."""
    first = rows[0]
    extent = task.extent.format(**{fact: getattr(data, fact) for fact in task.facts})
    print_table(
        f"{data.name}: {first[task.counted]:,} test {task.counted}, {extent}, seed {first['seed']}",
        [
            {
                "model": row["model"],
                **{f"test {_TITLES.get(name, name)}": f"{row[name]:.4f}" for name in task.metrics},
                "parameters": row["parameters"],
            }
            for row in rows
        ],
    )


def write_predictions(path: Path, batches: Sequence[Mapping[str, Tensor]], data: Any) -> None:
    """Write forecasts as a long table: window, step, channel, y, yhat, in the units of the data.

    With quantile loss ``yhat`` is the median and there is one more column for each quantile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    first = 0
    for batch in batches:
        frame = _long(batch, first, data)
        frame.to_csv(part, mode="a" if first else "w", header=not first, index=False)
        first += len(batch["y"])
    os.replace(part, path)


def _long(batch: Mapping[str, Tensor], first: int, data: Any) -> pd.DataFrame:
    B, horizon, C = batch["y"].shape
    index = pd.MultiIndex.from_product(
        [range(first, first + B), range(1, horizon + 1), range(C)], names=["window", "step", "channel"]
    )
    columns = {}
    for name, values in batch.items():
        columns[name] = (values.cpu() * data.std + data.mean).flatten().numpy()
    return pd.DataFrame(columns, index=index).reset_index()
