"""M4 Hourly and Weekly, every series: sMAPE, MASE and OWA of models without tuning, as in the competition.

python benchmarks/short_term.py --models ZeroShot auto      # appends to benchmarks/results/short_term.csv

Theta is the statistical one of `auto`. Published errors of Naive2 are 18.383 and 2.395 (Hourly), 9.161 and 2.777
(Weekly). A pair of set and model that the CSV holds is not run again. Needs `$SEQMIX_DATA`.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import panels
import torch

from seqmix import Forecaster
from seqmix.commands.tables import markdown
from seqmix.data.series.naive2 import naive2
from seqmix.environment import environment
from seqmix.forecasting.auto.theta import theta
from seqmix.tasks.rows import append_rows, read_rows

OUT = Path(__file__).parent / "results" / "short_term.csv"
MODELS = ("Naive2", "SeasonalNaive", "Theta", "Ridge", "ZeroShot", "auto")


def main() -> None:
    """Forecast what the CSV lacks, then print the table of all it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, metavar="NAME")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("Hourly", "Weekly"):
        panel = panels.read(f"m4_{name.lower()}")
        for model in args.models:
            if not any((row["data"], row["model"]) == (name, model) for row in read(args.out)):
                started = time.process_time()
                found = scores(panel, _forecaster(model)(panel))
                cost = {"cpu_seconds": round(time.process_time() - started, 1), "commit": environment()["commit"]}
                append_rows(args.out, [{"data": name, "model": model, **found, **cost}])
                print(name, model, found, cost, flush=True)
    print(markdown(table(read(args.out))))


def scores(panel: panels.Panel, forecasts: np.ndarray) -> dict[str, float]:
    """Errors of forecasts ``(n, horizon)``; OWA is the mean of the ratios of sMAPE and MASE to those of Naive2."""
    ours, theirs = (_errors(panel, each) for each in (forecasts, _naive2(panel)))
    owa = np.mean([a / b for a, b in zip(ours, theirs, strict=True)])
    return {"smape": round(ours[0], 3), "mase": round(ours[1], 3), "owa": round(float(owa), 3)}


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV."""
    return read_rows(path)


def table(rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """One line for each model, the best on both sets first."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        line: dict[str, Any] = {"model": model}
        for row in (row for row in rows if row["model"] == model):
            line |= {f"{row['data']} {name}": row[key] for name, key in (("sMAPE", "smape"), ("MASE", "mase"))}
            line |= {f"{row['data']} OWA": row["owa"], f"{row['data']} CPU s": row["cpu_seconds"]}
        lines.append(line)
    return sorted(lines, key=lambda line: sum(float(line.get(f"{name} OWA", 9)) for name in ("Hourly", "Weekly")))


def _errors(panel: panels.Panel, forecasts: np.ndarray) -> tuple[float, float]:
    truth, m = panel.truth(panel.horizon), panel.season
    error = np.abs(forecasts - truth)
    unit = [np.abs(y[m:] - y[:-m]).mean() for y in _past(panel)]
    smape = 200 * (error / (np.abs(forecasts) + np.abs(truth))).mean()
    return float(smape), float((error.mean(1) / unit).mean())


def _past(panel: panels.Panel) -> list[np.ndarray]:
    return [values[: -panel.horizon] for values in panel.series.values()]


def _naive2(panel: panels.Panel) -> np.ndarray:
    return np.stack([naive2(y, panel.season, panel.horizon) for y in _past(panel)])


def _theta(panel: panels.Panel) -> np.ndarray:
    past = _past(panel)
    longest = max(map(len, past))
    y = np.stack([np.r_[np.full(longest - len(each), np.nan), each] for each in past])
    return theta(y, panel.season, panel.horizon)


def _forecaster(model: str) -> Callable[[panels.Panel], np.ndarray]:
    """What forecasts a panel, ``(n, horizon)``."""
    own = {"Naive2": _naive2, "Theta": _theta}

    def forecast(panel: panels.Panel) -> np.ndarray:
        options = {"model_kwargs": {"season": panel.season}} if model == "SeasonalNaive" else {}
        forecaster = Forecaster(model, panel.horizon, freq=panel.freq, season=panel.season, device="cpu", **options)
        found = forecaster.fit(panel.before(panel.horizon)).predict()
        # rows keep the order of the ids
        return found[model].to_numpy().reshape(-1, panel.horizon)

    return own.get(model, forecast)


if __name__ == "__main__":
    main()
