"""Output of a run: the table of results with baselines, and files of predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from seqmix.commands.tables import print_table
from seqmix.environment import commit
from seqmix.tasks import Task
from seqmix.tasks.run import device_name
from seqmix.tasks.score import Score
from seqmix.whole import whole

Row = dict[str, Any]

_TITLES = {"mse": "MSE", "mae": "MAE"}


def rows_of(scores: Sequence[Score], task: Task, data: Any, trainer: pl.Trainer) -> list[Row]:
    """Rows of results: the score of the model first, then those of the baselines."""
    head, _ = commit()
    return [
        {
            "role": "baseline" if i else "model",
            "task": type(task).__name__,
            "model": score.model,
            "data": data.name,
            **task.facts_of(data),
            task.counted: score.count,
            **{name: round(score.metrics[name], 6) for name in task.metrics},
            "parameters": score.parameters,
            "commit": head,
            "device": device_name(trainer),
            "seconds": round(score.seconds, 1),
            **({} if i else {name: round(value, 3) for name, value in task.remarks().items()}),
        }
        for i, score in enumerate(scores)
    ]


def print_rows(rows: Sequence[Row], task: Task, data: Any) -> None:
    """Print results as a table: one line a model."""
    first = rows[0]
    extent = task.extent.format(**task.facts_of(data))
    print_table(
        f"{data.name}: {first[task.counted]:,} test {task.counted}, {extent}, seed {first['seed']}",
        [
            {
                # the model itself may be one of the baselines, with other settings
                "model": row["model"] + " (baseline)" * (row["role"] == "baseline" and row["model"] == first["model"]),
                **{f"test {_TITLES.get(name, name)}": f"{row[name]:.4f}" for name in task.metrics},
                "parameters": row["parameters"],
            }
            for row in rows
        ],
    )


def write_predictions(path: Path, batches: Sequence[dict[str, Tensor]], task: Task, data: Any) -> None:
    """Write predictions as a long table, atomically."""
    first = 0
    with whole(path) as part:
        for batch in batches:
            frame = task.prediction_rows(batch, first, data)
            frame.to_csv(part, mode="a" if first else "w", header=not first, index=False)
            first += len(next(iter(batch.values())))
