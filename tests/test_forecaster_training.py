"""Training of the Forecaster: best weights, progress, signals, threads, further training."""

import io
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from daily_panel import panel, small
from lightning.pytorch.callbacks import Callback

from seqmix.data.series.panel import Panel
from seqmix.forecasting.progress import Progress
from seqmix.mixers import Pool
from seqmix.models import MixerForecaster


@pytest.fixture(scope="module")
def fitted():
    return small().fit(panel())


class Wreck(Callback):
    """Spoils the weights half way."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 20:
            for p in module.parameters():
                p.data.mul_(100)


def test_best_weights_come_back():
    df = panel()
    fc = small(max_steps=30, early_stopping=None, trainer_kwargs={"callbacks": [Wreck()]}).fit(df)
    errors = fc.history_["val_mse"].dropna()
    assert len(errors) == 10 and errors.iloc[-1] > 100 * errors.min() and errors.idxmin() <= 6
    rows = Panel(
        df["y"].to_numpy()[:, None], np.array([0, 100, 200]), 14, 6, 8, n_val=np.array([15, 15]), eval_batch_size=99
    )
    batch = next(iter(rows.loader("val")))
    (task,) = fc.tasks_.values()
    with torch.no_grad():
        error = (task.predict_step(batch, 0)["yhat"] - batch["y"]).square().mean()
    assert float(error) == pytest.approx(errors.min(), rel=1e-5)


def test_the_same_seed_gives_the_same_forecast(fitted):
    again = small().fit(panel())
    pd.testing.assert_frame_equal(again.predict(), fitted.predict())
    assert not small(seed=1).fit(panel()).predict()["DLinear"].equals(fitted.predict()["DLinear"])


def test_weights_and_validation_rows():
    df = panel().assign(w=lambda df: (df["unique_id"] == "a").astype(float))
    weighted = small(max_steps=30).fit(df, weight_col="w", val_size=0)
    alone = small(max_steps=30, batch_size=128).fit(df[df["unique_id"] == "a"], val_size=0)
    assert weighted.history_["val_mse"].isna().all() and "no series is long enough" in weighted.notes_[-1]
    assert weighted.report_["windows"] == 2 * 81 and alone.report_["windows"] == 81
    held = small().fit(panel(n=80), val_df=panel()[lambda df: df["ds"] >= pd.Timestamp("2024-03-21")])
    same = small().fit(panel(), val_size=20)
    assert held.report_["windows"] == same.report_["windows"] == 2 * 61
    pd.testing.assert_frame_equal(held.predict(), same.predict())


def test_fit_more_goes_on_from_the_weights(fitted):
    start = small().fit(panel())
    more = start.clone().fit(panel()).fit_more(panel(), max_steps=1, learning_rate=1e-12)
    np.testing.assert_allclose(more.predict()["DLinear"], start.predict()["DLinear"], rtol=1e-4)
    assert more.fit_more(panel(("q",)), max_steps=2).predict()["unique_id"].unique().tolist() == ["q"]


def test_progress_names_model_and_stage(capsys):
    """On a pipe a line for each validation, that counts to the end."""
    fc = small(["DLinear", "SeasonalNaive"], max_steps=20, early_stopping=None, verbose=True).fit(panel())
    lines = capsys.readouterr().err.splitlines()
    steps = [f"DLinear, fit: {k}/20 steps, val_mse " for k in range(2, 21, 2)]
    assert [line.startswith(step) for line, step in zip(lines, steps, strict=True)] == [True] * 10
    fc.set_params(verbose=False).cross_validation(panel())
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    """Pretends to be one."""

    def isatty(self):
        return True


def test_a_bar_on_a_terminal_reaches_its_end():
    out = Terminal()
    small(max_steps=4, trainer_kwargs={"callbacks": [Progress("DLinear, fit", 4, out)]}).fit(panel())
    last = out.getvalue().rpartition("\r")[2]
    assert last.startswith(f"\x1b[K[{'#' * 24}] DLinear, fit: 4/4 steps, val_mse ") and last.endswith("\n")


class Signal(Callback):
    """Sends a signal to this process in a step of training."""

    def __init__(self, number):
        self.number = number

    def on_train_batch_start(self, *_):
        os.kill(os.getpid(), self.number)


def test_signals_in_a_fit_mean_what_they_mean_elsewhere():
    """Ctrl-C is a KeyboardInterrupt that leaves the Forecaster as it was; SIGTERM calls the handler of the program."""
    fc = small(trainer_kwargs={"callbacks": [Signal(signal.SIGINT)]})
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fc.fit(panel())
    assert signal.getsignal(signal.SIGINT) is before and not hasattr(fc, "fitted_")
    seen, term = [], signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        small(trainer_kwargs={"callbacks": [Signal(signal.SIGTERM)]}).fit(panel()).predict()
    finally:
        signal.signal(signal.SIGTERM, term)
    assert seen == [1] * 3


def test_fits_in_threads_are_those_of_one(fitted):
    """Random numbers of one fit do not reach another."""
    dropped = partial(MixerForecaster, mixer=Pool, patch_len=7, d_model=8)
    seeds = [0, 1, 2, 3]
    fit = lambda seed: small(dropped, seed=seed, freq="D").fit(panel()).predict()["MixerForecaster"].tolist()  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(fit, seeds))
    assert together == [fit(seed) for seed in seeds]
