"""Every config is a record: it says where it comes from and how it is run, and it does run."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqmix.commands.train import Train
from seqmix.data import Cycles, ForecastData
from seqmix.data._base import Table
from seqmix.data._labelled import LabelledBytes, LabelledData, join

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_there_are_configs():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_header(path):
    lines = path.read_text().splitlines()
    header = "\n".join(line for line in lines[: next(i for i, s in enumerate(lines) if not s.startswith("#"))])
    assert "Source: " in header
    assert f"# seqmix fit --config configs/{path.name}" in header
    assert not re.findall(r"<[^>]*>", header), "a placeholder"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_one_batch_runs(path, monkeypatch, tmp_path, capsys):
    """On data of the same shape where the data set would have to be read."""
    monkeypatch.chdir(tmp_path)
    cli = Train("fit", ["--config", str(path), "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"])
    data = cli.datamodule
    if isinstance(data, ForecastData) and not isinstance(data, Cycles):
        monkeypatch.setattr(data, "_load", lambda: _table(data))
    if isinstance(data, LabelledData):
        monkeypatch.setattr(data, "_make", lambda: _sequences(data))
    cli.fit()
    sizes = [f"{getattr(data, fact):,}" for fact in cli.model.facts]
    title = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{data.name}: "))
    assert all(size in title for size in sizes)
    assert cli.trainer.global_step == 1
    assert list(tmp_path.iterdir()) == []


def _table(data):
    rows = data.context + data.horizon + data.batch_size
    values = np.random.default_rng(0).standard_normal((3 * rows, data.n_channels))
    return Table(values, pd.date_range("2026-01-01", periods=3 * rows, freq="h"), (rows, rows, rows))


def _sequences(data):
    """Two examples for each split, one of them as long as they get, up to 512."""
    longest = min(data.max_len, 512)
    lengths = [longest, longest if data.vocab_size == 256 else 3] * (1 + data.pairs)
    sequences = [np.random.default_rng(n).integers(0, data.vocab_size - 1, n, np.uint8).tobytes() for n in lengths]
    every = LabelledBytes(*join(sequences, [0, 1]), pairs=data.pairs, padded=data.vocab_size != 256)
    return dict.fromkeys(("train", "val", "test"), every)
