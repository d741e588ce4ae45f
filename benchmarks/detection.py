"""Anomaly detection: detectors fitted to each series, on generated anomalies of six kinds and on NAB.

    python benchmarks/detection.py run                 # all; killed and started again, it goes on where it was
    python benchmarks/detection.py table               # means by data and kind, as Markdown
    python benchmarks/detection.py picture             # scores under one series of each kind
    python benchmarks/detection.py aeon                # our VUS-PR beside that of aeon, if aeon is installed

Every detector is local: it is fitted to the training rows of the series that it scores, nothing is chosen on test rows.
NAB has known flaws (Wu and Keogh, arXiv:2009.13807); the generated anomalies have true labels.
"""

import argparse
import time
import warnings
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from seqmix.commands.tables import markdown
from seqmix.data import NAB, AnomalySeries, GeneratedAnomalies
from seqmix.data.series.synthetic.anomalies import KINDS
from seqmix.environment import environment
from seqmix.models import (
    DetectorMean,
    ForecastErrors,
    RandomScores,
    SeasonalNaive,
    SpectralResidual,
    SubPCA,
    ZeroShot,
    series_of,
)
from seqmix.tasks import detection_metrics
from seqmix.tasks.detection import METRICS, assess
from seqmix.tasks.rows import append_rows, read_rows

HERE = Path(__file__).parent
DATA = {
    "Generated": partial(GeneratedAnomalies, n_series=8),
    "Generated, 3 channels": partial(GeneratedAnomalies, n_series=4, n_channels=3),
    "NAB": NAB,
}
DETECTORS = {
    "DetectorMean": DetectorMean,
    "SubPCA": partial(SubPCA, own=False),  # as published
    "Ridge errors": ForecastErrors,
    "SeasonalNaive errors": partial(ForecastErrors, model=SeasonalNaive),
    "SpectralResidual": SpectralResidual,
    "RandomScores": RandomScores,
    "ZeroShot errors": partial(ForecastErrors, model=ZeroShot),
}
# a thousandth of a second or so for each row: on the first generated series of each kind only
SLOW = "ZeroShot errors"


def run(path: Path, seconds: float) -> None:
    """Add the rows that are missing, until the time is over; what is slow comes last."""
    known = {(row["data"], row["series"], row["detector"]) for row in read_rows(path)}
    end = time.monotonic() + seconds
    for slow in (False, True):
        for name, make in DATA.items():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="NAB has known flaws")
                loaded = [series for series in make()._load() if series.labels[series.n_train :].any()]
            chosen = [s for s in loaded if not slow or (name == "Generated" and s.name.endswith("-0"))]
            for series, detector in product(chosen, DETECTORS):
                if (name, series.name, detector) in known or (detector == SLOW) != slow or time.monotonic() > end:
                    continue
                append_rows(path, [{"data": name, **_row(series, detector)}])


def _row(series: AnomalySeries, detector: str) -> dict[str, object]:
    x, mask = torch.from_numpy(series.values), torch.from_numpy(~np.isnan(series.values))
    started, n = time.process_time(), series.n_train
    made = DETECTORS[detector](series_of(x[:n], mask[:n]))
    found = assess(made, x, mask, torch.from_numpy(series.labels), n, rate=0.01)[: len(METRICS)]
    row = {"series": series.name, "detector": detector, "rows": len(x)}
    row |= {metric: round(float(value), 6) for metric, value in zip(METRICS, found, strict=True)}
    return {**row, "cpu_seconds": round(time.process_time() - started, 3), "commit": environment()["commit"]}


def read(path: Path) -> pd.DataFrame:
    """Rows of the CSV, with the kind of anomaly or the folder of each series as ``part``."""
    frame = pd.DataFrame(read_rows(path)).astype(dict.fromkeys((*METRICS, "cpu_seconds"), float))
    frame["part"] = frame["series"].str.split("/").str[0].str.split("-").str[0]
    return frame


def table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """VUS-PR of each detector, means over the series of each data set; CPU seconds for a series of 3,000 rows."""
    usual = frame[frame["detector"] != SLOW]
    lines = [_line({"data": name}, rows, "vus_pr", 3) for name, rows in usual.groupby("data", sort=False)]
    return [*lines, _line({"data": "CPU seconds"}, usual[usual["rows"] == "3000"], "cpu_seconds", 2)]


def parts(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """VUS-PR of each detector by the kind of anomaly, or by the folder of NAB, and how far the default is above SubPCA.

    The difference is the mean over the series, with its standard error.
    """
    lines = []
    for (name, part), rows in frame[frame["detector"] != SLOW].groupby(["data", "part"], sort=False):
        by_series = rows.pivot(index="series", columns="detector", values="vus_pr")
        above = by_series["DetectorMean"] - by_series["SubPCA"]
        shown = {"DetectorMean over SubPCA": f"{above.mean():+.3f} ± {above.sem():.3f}"}
        lines.append(_line({"data": name, "part": part}, rows, "vus_pr", 3) | shown)
    return lines


def metrics(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """All metrics of each detector on each data set."""
    means = frame[frame["detector"] != SLOW].groupby(["data", "detector"])[[*METRICS]].mean()
    return [
        {"data": name, "detector": detector, **{metric: f"{x:.3f}" for metric, x in means.loc[name, detector].items()}}
        for name in DATA
        for detector in DETECTORS
        if (name, detector) in means.index
    ]


def _line(facts: dict[str, Any], rows: pd.DataFrame, column: str, digits: int) -> dict[str, Any]:
    means = rows.groupby("detector", sort=False)[column].mean()
    shown = {detector: f"{means[detector]:.{digits}f}" for detector in DETECTORS if detector in means}
    return {**facts, "series": rows["series"].nunique(), **shown}


def picture(path: Path) -> None:
    """One generated series of each kind, its anomalies in red, and the scores of two detectors."""
    figure = Figure(figsize=(10, 12), layout="constrained")
    axes = figure.subplots(2 * len(KINDS), 1, sharex=True)
    loaded = {series.name: series for series in GeneratedAnomalies(n_series=1)._load()}
    for i, kind in enumerate(KINDS):
        series = loaded[f"{kind}-0"]
        x, n = torch.from_numpy(series.values), series.n_train
        above, below = axes[2 * i], axes[2 * i + 1]
        above.plot(series.values[:, 0], lw=0.6, color="0.5")
        for start, end in zip(*detection_metrics.ranges(series.labels), strict=True):
            above.axvspan(start, end, color="C3", alpha=0.3)
        above.axvline(n, color="0.6", ls=":")
        above.set_ylabel(kind, rotation=0, ha="right")
        for name in ("SubPCA", "DetectorMean"):
            detector = DETECTORS[name](series_of(x[:n]))
            detector.fit(x[:n])
            below.plot(detector.score(x).numpy(), lw=0.7, label=name)
        below.set_yscale("symlog", linthresh=1)
        for each in (above, below):
            each.spines[["top", "right"]].set_visible(False)
            each.tick_params(labelsize=7)
    axes[1].legend(frameon=False, fontsize=8, ncols=2)
    axes[-1].set_xlabel("row; training rows end at the dotted line")
    figure.savefig(path, dpi=110)


def aeon() -> None:
    """Our volumes beside those of aeon on a few series, with the same widths."""
    from aeon.benchmarking.metrics.anomaly_detection import range_pr_vus_score, range_roc_vus_score

    rng = np.random.default_rng(0)
    for length in (10, 40, 100):
        labels = np.zeros(2000, int)
        labels[500 : 500 + length] = labels[1400 : 1400 + length] = 1
        scores = rng.normal(size=2000) + labels
        ours = detection_metrics.volumes(labels, scores, max_buffer=length)
        theirs = range_pr_vus_score(labels, scores, length), range_roc_vus_score(labels, scores, length)
        print(f"{length} rows: VUS-PR {ours.pr:.4f} / {theirs[0]:.4f}, VUS-ROC {ours.roc:.4f} / {theirs[1]:.4f}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table", "picture", "aeon"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "detection.csv")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "run":
        run(given.out, given.seconds)
    elif given.what == "table":
        for made in (table, parts, metrics):
            print(markdown(made(read(given.out))), end="\n\n")
    elif given.what == "picture":
        picture(given.out.with_suffix(".png"))
    else:
        aeon()


if __name__ == "__main__":
    main()
