"""What ``zoo.py`` runs for one model, with the interpreter that has the model; prints a line of JSON for each panel.

The forecasts are files of numpy, ``(windows, series, horizon, 1 + 9)``: the point forecast and the quantiles .1 to .9,
NaN where a model failed. All models see the rows before each cutoff. Those of seqmix and neuralforecast are trained
once, on the rows before the first; statistical ones are fitted to each series at each cutoff, to its last 2,500 rows at
most, as in AutoGluon.
"""

import argparse
import json
import logging
import signal
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import panels

QUANTILES = [k / 10 for k in range(1, 10)]
STATISTICAL = ("AutoETS", "AutoTheta", "AutoARIMA")
NEURAL = ("NHITS", "PatchTST")
_LEVELS = [20, 40, 60, 80]
_LAST = 2500


class Run:
    """Forecasts of one model on one panel, and what they cost.

    Args:
        panel: the series.
        limit: CPU seconds after which the rest is left out.
    """

    def __init__(self, panel: panels.Panel, limit: float):
        self.panel, self.limit = panel, limit
        shape = (panel.windows, len(panel.series), panel.horizon, 1 + len(QUANTILES))
        self.forecasts = np.full(shape, np.nan)
        self.facts: dict[str, Any] = {"fit_s": 0.0, "predict_s": 0.0, "bytes": 0, "seen": "no", "note": ""}

    def seqmix(self, name: str) -> None:
        """A model of seqmix by the Forecaster's defaults."""
        from seqmix import Forecaster
        from seqmix.errors import DataError
        from seqmix.models import list_models, model_facts
        from seqmix.series import Series

        panel = self.panel
        # the season of the panel is what the baselines repeat; models find their own
        named = {"SeasonalNaive": panel.season, "Persistence": 1}
        options: dict[str, Any] = {"season": named[name]} if name in named else {}
        model = {"Persistence": "SeasonalNaive", "auto-stats": "auto"}.get(name, name)
        forecaster = Forecaster(model, panel.horizon, freq=panel.freq, device="cpu", **options)
        facts = model_facts(model)[0] if model in list_models() else None
        if facts is not None and facts.pretrained:
            weights = facts(Series(1, facts.context or panel.horizon, panel.horizon)).parameters()
            self.facts["bytes"] = _bytes(weights)
        else:
            history = panel.before(panel.held_back[0])
            started = time.process_time()
            forecaster.fit(history)
            self.facts["fit_s"] = time.process_time() - started
            self.facts["bytes"] = _bytes(
                p for task in getattr(forecaster, "tasks_", {}).values() for p in task.parameters()
            )
            self.facts["seen"] = "" if name in named else "training rows"
        for window, rows in enumerate(panel.held_back):
            history = panel.before(rows)
            started = time.process_time()
            try:
                found, spread = forecaster.predict(history, quantiles=QUANTILES), True
            except DataError as e:
                # too few validation rows for intervals: the point forecast is every quantile
                found, spread = forecaster.predict(history), False
                self.facts["note"] = f"no intervals: {e}"[:80]
            self.facts["predict_s"] += time.process_time() - started
            label = next(c for c in found if c not in ("unique_id", "ds"))
            self._take(window, found, [label, *(f"{label}_q{q:g}" if spread else label for q in QUANTILES)])

    def statistical(self, name: str) -> None:
        """A model of statsforecast, fitted to each series by itself; missing values are interpolated."""
        from statsforecast import models

        self.facts["seen"] = "training rows"
        model = getattr(models, name)(season_length=self.panel.season)
        # numba compiles on the first call
        model.new().fit(np.sin(np.arange(60.0)) + np.arange(60) % 7).predict(2, level=_LEVELS)
        started = time.process_time()
        for window, rows in enumerate(self.panel.held_back):
            for i, values in enumerate(self.panel.series.values()):
                self._one(window, i, model.new(), _filled(values[: len(values) - rows])[-_LAST:], started)

    def _one(self, window: int, i: int, model: Any, y: np.ndarray, started: float) -> None:
        begun = time.process_time()
        try:
            _alarm(self.limit - (begun - started))
            model.fit(y)
            fitted = time.process_time()
            found = model.predict(self.panel.horizon, level=_LEVELS)
        except TimeoutError:
            fitted = time.process_time()
            done = int(np.isfinite(self.forecasts).all((2, 3)).sum())
            self.facts["note"] = f"not finished: {done} forecasts in {self.limit:g} s"
        except Exception as e:
            self.facts["note"] = f"{type(e).__name__}: {e}"[:80]
            fitted = time.process_time()
        else:
            bounds = [found[f"lo-{level}"] for level in _LEVELS[::-1]], [found[f"hi-{level}"] for level in _LEVELS]
            self.forecasts[window, i] = np.stack([found["mean"], *bounds[0], found["mean"], *bounds[1]], -1)
        finally:
            _alarm(0)
        self.facts["fit_s"] += fitted - begun
        self.facts["predict_s"] += time.process_time() - fitted

    def neural(self, name: str) -> None:
        """A model of neuralforecast, its options as they come but for quantiles, scaled series, and when it stops."""
        from neuralforecast import NeuralForecast, models
        from neuralforecast.losses.pytorch import MQLoss
        from pytorch_lightning.callbacks import Callback

        panel, limit, steps = self.panel, self.limit, []

        class Budget(Callback):
            # models are copied with their callbacks: the list is not
            def on_train_start(self, *_: object) -> None:
                self.end = time.process_time() + limit

            def on_train_batch_end(self, trainer: Any, *_: object) -> None:
                trainer.should_stop = time.process_time() > self.end
                steps.append(trainer.global_step)

        model = getattr(models, name)(
            h=panel.horizon,
            input_size=2 * max(panel.horizon, panel.season),
            loss=MQLoss(level=_LEVELS),
            start_padding_enabled=True,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[Budget()],
        )
        runner = NeuralForecast([model], panel.freq, local_scaler_type="standard")
        histories = [_interpolated(panel.before(rows)) for rows in panel.held_back]
        started = time.process_time()
        runner.fit(histories[0])
        self.facts |= {"fit_s": time.process_time() - started, "seen": "training rows"}
        if time.process_time() - started > limit:
            self.facts["note"] = f"not finished: {steps[-1]} steps in {limit:g} s"
        self.facts["bytes"] = _bytes(runner.models[0].parameters())
        lo, hi = ([f"{name}-{side}-{level}" for level in _LEVELS] for side in ("lo", "hi"))
        for window, history in enumerate(histories):
            started = time.process_time()
            found = runner.predict(history)
            self.facts["predict_s"] += time.process_time() - started
            self._take(window, found, [f"{name}-median", *lo[::-1], f"{name}-median", *hi])

    def _take(self, window: int, found: pd.DataFrame, columns: Sequence[str]) -> None:
        rows = found.set_index("unique_id").loc[list(self.panel.series), list(columns)].to_numpy()
        self.forecasts[window] = rows.reshape(self.forecasts.shape[1:])


def _warm() -> None:
    """Load what the first fit and forecast load, so that no panel pays for it."""
    from seqmix import Forecaster

    rows = pd.DataFrame({"ds": range(20), "y": np.arange(20.0)})
    Forecaster("SeasonalNaive", 1, device="cpu").fit(rows).predict()


def _bytes(weights: Iterable[Any]) -> int:
    return sum(p.numel() * p.element_size() for p in weights)


def _alarm(seconds: float) -> None:
    """Raise ``TimeoutError`` after so many CPU seconds of this process; 0 is never."""
    if seconds < 0:
        raise TimeoutError("over the limit")
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _over(*_: object) -> None:
    raise TimeoutError("over the limit")


def _filled(values: np.ndarray) -> np.ndarray:
    at, known = np.arange(len(values)), ~np.isnan(values)
    return np.interp(at, at[known], values[known])


def _interpolated(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(y=frame.groupby("unique_id")["y"].transform(lambda y: _filled(y.to_numpy())))


def main() -> None:
    """Run one model on some panels; what it raises is a failure, with a note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("panels", nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder of the forecasts")
    parser.add_argument("--series", type=int, default=120)
    parser.add_argument("--limit", type=float, default=600)
    parser.add_argument("--held-out", type=Path)
    args = parser.parse_args()
    if args.model not in STATISTICAL:
        import torch

        torch.set_num_threads(1)
        if args.model not in NEURAL:
            _warm()
    for name in args.panels:
        run = Run(panels.read(name, args.held_out).sample(args.series), args.limit)
        kind = run.statistical if args.model in STATISTICAL else run.neural if args.model in NEURAL else run.seqmix
        try:
            kind(args.model)
        except Exception as e:
            run.facts["note"] = f"{type(e).__name__}: {e}"[:80]
        np.save(args.out / f"{name}.npy", run.forecasts)
        print(json.dumps({"panel": name, **run.facts}), flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _over)
    # budgets of auto and of Lightning count what this process uses, not what others do meanwhile
    time.perf_counter = time.monotonic = time.process_time
    main()
