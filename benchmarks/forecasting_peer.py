"""What ``forecasting.py --peer`` runs with the interpreter of neuralforecast's environment; prints JSON.

python -m venv peer && peer/bin/pip install torch==2.13.0 neuralforecast==3.3.0 pyarrow
python benchmarks/forecasting.py step --peer peer/bin/python
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import forecasting_sets as sets
import numpy as np


def step(n: int) -> float:
    """Median CPU milliseconds of ``n`` training steps of DLinear on ETTh1."""
    from pytorch_lightning.callbacks import Callback

    times: list[float] = []

    class Clock(Callback):
        # models are copied with their callbacks: this list is not
        def on_train_batch_end(self, *_: object) -> None:
            times.append(time.process_time())

    _fitted(n, callbacks=[Clock()])
    return float(np.median(np.diff(times)) * 1e3)


def backtest() -> float:
    """CPU milliseconds of the forecasts of every test window of ETTh1, with a fitted model."""
    fitted, frame = _fitted(10), sets.etth1()
    started = time.process_time()
    cv = fitted.cross_validation(frame, n_windows=None, test_size=2880, step_size=1, use_fitted=True)
    assert len(cv) == 2785 * 7 * 96
    return (time.process_time() - started) * 1e3


def imports() -> list[float]:
    """CPU milliseconds of the import, and MiB after it."""
    import resource

    from neuralforecast import NeuralForecast  # noqa: F401

    return [time.process_time() * 1e3, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]


def accuracy(name: str, context: int, seconds: float, scaler: str, seed: int, out: str) -> dict[str, float]:
    """Forecasts of one set by models of default settings that train for so many CPU seconds each, into a file.

    Args:
        name: the set.
        context: steps that the models see.
        seconds: when training stops.
        scaler: ``None``, the default, or a scaler of each series.
        seed: seed of the weights and of the order of windows.
        out: CSV file of the forecasts.
    """
    from neuralforecast import NeuralForecast
    from neuralforecast.models import NHITS, DLinear
    from pytorch_lightning.callbacks import Callback

    taken: list[int] = []

    class Budget(Callback):
        # models are copied with their callbacks: the list is not
        def on_train_start(self, trainer: Any, *_: object) -> None:
            self.end = time.process_time() + seconds

        def on_train_batch_end(self, trainer: Any, *_: object) -> None:
            trainer.should_stop = time.process_time() > self.end
            taken.append(trainer.global_step)

    given, steps, found = sets.read(name), {}, None
    for kind in (DLinear, NHITS):
        known = given.future if kind is NHITS else []
        options: dict[str, Any] = {"futr_exog_list": known} if known else {}
        options |= {"input_size": context, "max_steps": 100_000, "random_seed": seed, "callbacks": [Budget()]}
        model = kind(h=given.horizon, **options, **_quiet())
        runner = NeuralForecast([model], given.freq, local_scaler_type=None if scaler == "None" else scaler)
        frame = given.frame if known else given.frame[["unique_id", "ds", "y"]]
        cv = runner.cross_validation(frame, n_windows=given.windows, step_size=given.step)
        steps[kind.__name__] = float(taken[-1])
        keys = ["unique_id", "ds", "cutoff"]
        found = cv if found is None else found.merge(cv[[*keys, kind.__name__]], on=keys)
    found.to_csv(out, index=False)
    return steps


def _fitted(steps: int, **options: Any) -> Any:
    from neuralforecast import NeuralForecast
    from neuralforecast.models import DLinear

    model = DLinear(h=96, input_size=96, max_steps=steps, windows_batch_size=224, **options, **_quiet())
    runner = NeuralForecast([model], "h")
    frame = sets.etth1()
    runner.fit(frame[frame.groupby("unique_id").cumcount() < 11520])
    return runner


def _quiet() -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }


def main() -> None:
    """Run the part that was named, and print what it found as the last line."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    part, *given = sys.argv[1:]
    if part == "import":
        found: Any = imports()
    else:
        import torch

        torch.set_num_threads(1)
        if part == "step":
            found = step(int(given[0]))
        elif part == "backtest":
            found = backtest()
        else:
            name, context, seconds, scaler, seed, out = given
            found = accuracy(name, int(context), float(seconds), scaler, int(seed), str(Path(out)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
