"""Progress of a fit on standard error: a bar on a terminal, a line for each validation on a pipe."""

import sys
import time
from typing import Any, TextIO

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

_WIDTH = 24
# seconds between two drawings of the bar
_PAUSE = 0.1


class Progress(Callback):
    """Shows steps and the last validation of one model.

    Args:
        title: what is trained.
        max_steps: maximum number of optimizer steps.
        out: stream to write to. Default: standard error.
    """

    def __init__(self, title: str, max_steps: int, out: TextIO | None = None):
        self.title, self.max_steps = title, max_steps
        self._out = sys.stderr if out is None else out
        self._terminal, self._drawn, self._last, self._found = self._out.isatty(), 0.0, 0, ""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Redraw the bar, at most ten times a second."""
        now = time.monotonic()
        if self._terminal and now > self._drawn + _PAUSE:
            self._drawn = now
            self._draw(trainer.global_step, "")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Keep the metrics; print a line on a pipe."""
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val_")}
        self._found = "".join(f", {name} {value:.4g}" for name, value in found.items())
        if not self._terminal:
            self._draw(trainer.global_step, "\n")

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Print where training ended."""
        if trainer.global_step < self.max_steps:
            self._found += ", stopped: no longer better"
        elif self._last == trainer.global_step and not self._terminal:
            return
        self._draw(trainer.global_step, "\n")

    def _draw(self, step: int, end: str) -> None:
        text = f"{self.title}: {step}/{self.max_steps} steps{self._found}"
        if self._terminal:
            done = _WIDTH * step // self.max_steps
            # a carriage return, and an erased line under the new one
            text = f"\r\x1b[K[{'#' * done}{' ' * (_WIDTH - done)}] {text}"
        self._last = step
        print(text, end=end, file=self._out, flush=True)
