"""The generated series: its equations, its splits, and that only a model that mixes channels can forecast it."""

import pytest
import torch

from seqmix.data import Cycles
from seqmix.errors import ConfigError


def test_same_seed_same_series_without_touching_global_state():
    state = torch.get_rng_state()
    first, again, other = Cycles(data_seed=1), Cycles(data_seed=1), Cycles(data_seed=2)
    batches = [next(iter(data.test_dataloader()))["x"] for data in (first, again, other)]
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_facts_and_window_counts():
    data = Cycles()
    assert (data.n_channels, data.context, data.horizon, data.season, data.series.n_future) == (7, 96, 24, 24, 0)
    assert data.window_counts == {"train": 2450 - 119, "val": 350 - 23, "test": 700 - 23}
    batch = next(iter(Cycles(n_channels=3, calendar=True, batch_size=5).train_dataloader()))
    assert {name: tuple(x.shape) for name, x in batch.items()} == {
        "x": (5, 96, 3),
        "y": (5, 24, 3),
        "future": (5, 120, 4),
    }


@pytest.mark.parametrize("lag", [23, 97])
def test_lag_outside_horizon_and_context_is_refused(lag):
    with pytest.raises(ConfigError) as error:
        Cycles(lag=lag)
    assert str(error.value) == f"lag must be between horizon = 24 and context = 96, got {lag}; use data.lag=24"


@pytest.mark.parametrize("lag", [24, 40])
def test_followers_can_be_forecast_from_the_driver_and_not_from_themselves(lag):
    data = Cycles(lag=lag, n_channels=3)
    data.setup()
    train, test = ({k: v.double() for k, v in _all(data, name).items()} for name in ("train", "test"))
    for channel in (1, 2):
        own = _test_error(train, test, [channel], channel)
        with_driver = _test_error(train, test, [0, channel], channel)
        assert with_driver < 0.1 < 0.4 < own
    # nothing forecasts the driver itself
    assert _test_error(train, test, [0, 1, 2], 0) > 0.4


def _all(data, split):
    loader = {"train": data.train_dataloader, "test": data.test_dataloader}[split]()
    return loader.windows.gather(torch.arange(len(loader.windows)))


def _test_error(train, test, inputs, output):
    """Mean squared error of the best linear forecast of one channel from the contexts of others."""

    def design(batch):
        x = batch["x"][..., inputs].flatten(1)
        return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)

    weight = torch.linalg.lstsq(design(train), train["y"][..., output]).solution
    return (design(test) @ weight - test["y"][..., output]).square().mean().item()
