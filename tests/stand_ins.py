"""Data of the shape of a data set that would have to be read, and a tiny pretrained model, for tests."""

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn

from seqmix.data import GLUE, M4, AnomalySeries, Cycles, DetectionData, FashionMNIST, ForecastData, WideCSV
from seqmix.data.images.pixels import LabeledImages
from seqmix.data.sequences.labeled import LabeledBytes, LabeledData, join
from seqmix.data.sequences.samples import LabeledSamples, SampledData
from seqmix.data.series.forecast_data import Table
from seqmix.data.series.gaps import GapData
from seqmix.data.series.labeled import LabeledSeries, SeriesData
from seqmix.data.text._token_file import Documents
from seqmix.data.text.corpora import Corpus
from seqmix.data.text.tokenizer import Bytes
from seqmix.models import ForecastModel


class Walk(ForecastModel):
    """A pretrained model: a random walk from the last observed value, whose drift and spread can be fine-tuned."""

    masked, pretrained, context = True, True, 40
    quantiles = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

    def __init__(self, series, *, drift: float = 0.0):
        super().__init__(series)
        self.drift, self.spread = nn.Parameter(torch.tensor(drift)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x, *, future=None, static=None, past=None, mask=None):
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        count = mask.sum(1, keepdim=True).clamp(min=1)
        mean = x.masked_fill(~mask, 0).sum(1, keepdim=True) / count
        scale = ((x - mean).masked_fill(~mask, 0).square().sum(1, keepdim=True) / count).sqrt()  # (B, 1, C)
        steps = torch.arange(x.shape[1])[:, None]
        at = torch.where(mask, steps, 0).amax(1, keepdim=True)
        level = x.gather(1, at)
        ahead = torch.arange(1, self.series.horizon + 1, dtype=x.dtype)[:, None]  # (horizon, 1)
        median = level + self.drift * scale * ahead
        if self.series.n_outputs == 1:
            return median
        z = torch.tensor([NormalDist().inv_cdf(q) for q in self.quantiles], dtype=x.dtype)
        return median[..., None] + (self.spread * scale * ahead.sqrt())[..., None] * z


def stand_in(data: LightningDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give ``data`` a few examples instead of those that it would read."""
    if isinstance(data, ForecastData) and not isinstance(data, Cycles | WideCSV):
        monkeypatch.setattr(data, "_load", lambda: _table(data, data.context + data.horizon))
    if isinstance(data, GapData):
        monkeypatch.setattr(data, "_load", lambda: _table(data, data.context, holes=True))
    if isinstance(data, DetectionData):
        monkeypatch.setattr(data, "_load", lambda: _labeled(data))
    if isinstance(data, M4):
        monkeypatch.setattr(data, "_read", lambda: _ragged(data))
    if isinstance(data, LabeledData):
        monkeypatch.setattr(data, "_make", lambda: _sequences(data))
    if isinstance(data, SampledData):
        monkeypatch.setattr(data, "_make", lambda: _signals(data))
    if isinstance(data, SeriesData):
        monkeypatch.setattr(data, "_make", lambda: _labeled_series(data))
    if isinstance(data, Corpus):
        monkeypatch.setattr(data, "_tokenizer", Bytes())
        monkeypatch.setattr(data, "documents", lambda split: _document(data))
    if isinstance(data, GLUE):
        monkeypatch.setattr(data, "_tokenizer", Bytes)
        monkeypatch.setattr(data, "examples", lambda split: _sentences(data))
    if isinstance(data, FashionMNIST):
        images = LabeledImages(torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8), torch.arange(4))
        monkeypatch.setattr(data, "_make", lambda: {"train": images, "val": images, "test": images})


def _table(data, window, *, holes=False):
    rows = window + data.batch_size
    values = np.random.default_rng(0).standard_normal((3 * rows, data.n_channels))
    if holes:
        values[5::7, 0] = np.nan
    return Table(values, pd.date_range("2026-01-01", periods=3 * rows, freq="h"), (rows, rows, rows))


def _labeled(data):
    """Two series of different length, each with an anomaly after its training rows."""
    n, random = 2 * data.window + data.batch_size, np.random.default_rng(0)
    values = [random.standard_normal((2 * n + extra, data.n_channels)) for extra in (0, 9)]
    labels = [np.arange(len(each)) // 5 == (n + 10) // 5 for each in values]
    return [AnomalySeries(f"S{i}", x, y.astype(int), n) for i, (x, y) in enumerate(zip(values, labels, strict=True))]


def _ragged(data):
    """Series of different length with a season, the first one shorter than the context."""
    H, m, random = data.horizon, data.series.season, np.random.default_rng(0)
    lengths = (max(3 * H, 3 * m), 6 * H, 6 * H + data.context)
    cycle = np.arange(7 * H + data.context) % m
    values = [100 + 10 * cycle[: n + H] + random.standard_normal(n + H) for n in lengths]
    return {f"S{i}": (y[:-H], y[-H:]) for i, y in enumerate(values)}


def _sequences(data):
    """Two examples for each split, one of them as long as they get, up to 512."""
    longest = min(data.max_len, 512)
    lengths = [longest, longest if data.vocab_size == 256 else 3] * (1 + data.pairs)
    sequences = [np.random.default_rng(n).integers(0, data.vocab_size - 1, n, np.uint8).tobytes() for n in lengths]
    every = LabeledBytes(*join(sequences, [0, 1]), pairs=data.pairs, padded=data.vocab_size != 256)
    return dict.fromkeys(("train", "val", "test"), every)


def _signals(data):
    """Two short signals for each split."""
    samples = torch.randint(256, (2, min(data.max_len, 512), data.n_channels), dtype=torch.uint8)
    every = LabeledSamples(samples, torch.arange(2), torch.zeros(data.n_channels), torch.ones(data.n_channels))
    return dict.fromkeys(("train", "val", "test"), every)


def _labeled_series(data):
    """Two series of each class."""
    n, shape = 2 * data.n_classes, (data.max_len, data.n_channels)
    values = torch.randn(n * shape[0], shape[1], generator=torch.Generator().manual_seed(0))
    every = LabeledSeries(values, torch.arange(n + 1) * shape[0], torch.arange(n) % data.n_classes)
    return dict.fromkeys(("train", "val", "test"), every)


def _document(data):
    """One document, of two pieces of up to 64 tokens."""
    n = min(data.max_len, 64) + 7
    tokens = torch.from_numpy(np.random.default_rng(0).integers(4, 260, n))
    # sentences of five tokens; the last border is the end
    borders = torch.cat([torch.arange(1, n - 1, 5), torch.tensor([n - 1])])
    return Documents(tokens, torch.tensor([0, n]), torch.tensor([n - 2]), borders)


def _sentences(data):
    texts = (b"one", b"another")[: len(data.layout.columns)]
    return [(texts, float(label % max(2, data.n_classes))) for label in range(12)]
