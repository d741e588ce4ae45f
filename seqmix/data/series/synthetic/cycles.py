"""A generated multivariate series for the demo and for tests: seasons, trend, and channels that follow another one."""

import numpy as np
import pandas as pd

from seqmix.data.series.forecast_data import ForecastData, Table
from seqmix.errors import ConfigError


class Cycles(ForecastData):
    """Hourly series with daily and weekly cycles and a trend, whose first channel drives the others, ``lag`` later.

    With independent standard normal ``e`` and ``n``, and a driver ``u`` of unit variance that forgets half of its value
    in about 4 hours, channel ``c`` at hour ``t`` is::

        u[t]    = 0.85 u[t-1] + sqrt(1 - 0.85^2) e[t]
        x[t, c] = a_c sin(2 pi t / 24 + p_c) + b_c sin(2 pi t / 168 + q_c) + s_c t / n_steps + 0.1 n[t, c] + w_c[t]
        w_0[t]  = u[t],    w_c[t] = g_c u[t - lag]    for c > 0

    with ``a_c`` in [0.5, 1], ``b_c`` in [0.25, 0.5], ``s_c`` in [-1, 1], ``g_c`` in [0.8, 1.2] random phases. As
    ``horizon <= lag <= context``, the future of a following channel stands in the context of the first one and nowhere
    in its own: a model that mixes channels can find it, one that treats them apart cannot.

    Args:
        context: lookback length, in hours; it has to cover ``lag``.
        n_channels: number of channels C; the first one drives the others.
        n_steps: length of the series, in hours; 70 / 10 / 20 % training, validation, test.
        lag: hours by which the others follow.
        data_seed: seed of the generator.

    Raises:
        ConfigError: if ``lag`` is not between ``horizon`` and ``context``.
    """

    def __init__(
        self,
        context: int = 96,
        horizon: int = 24,
        batch_size: int = 32,
        *,
        n_channels: int = 7,
        n_steps: int = 3500,
        lag: int = 24,
        data_seed: int = 0,
        eval_batch_size: int | None = None,
        stride: int = 1,
        scale: bool = True,
        calendar: bool = False,
        seed: int | None = None,
    ):
        if not horizon <= lag <= context:
            remedy = f"use data.lag={horizon}" if horizon <= context else f"use data.context={horizon} or more"
            raise ConfigError(f"lag must be between horizon = {horizon} and context = {context}, got {lag}; {remedy}")
        super().__init__(
            "Cycles",
            n_channels,
            context,
            horizon,
            batch_size,
            step=1,
            season=24,
            eval_batch_size=eval_batch_size,
            stride=stride,
            scale=scale,
            calendar=calendar,
            seed=seed,
        )
        self.n_steps, self.lag, self.data_seed = n_steps, lag, data_seed

    def _load(self) -> Table:
        T, C = self.n_steps, self.n_channels
        generator = np.random.Generator(np.random.PCG64(self.data_seed))
        phase = generator.uniform(0, 2 * np.pi, (2, C))
        daily, weekly = generator.uniform(0.5, 1, C), generator.uniform(0.25, 0.5, C)
        slope, gain = generator.uniform(-1, 1, C), generator.uniform(0.8, 1.2, C)
        noise = 0.1 * generator.standard_normal((T, C))
        driver = _driver(generator, self.lag + T)

        hour = np.arange(T)[:, None]  # (T, 1)
        values = daily * np.sin(2 * np.pi * hour / 24 + phase[0]) + weekly * np.sin(2 * np.pi * hour / 168 + phase[1])
        values += slope * hour / T + noise  # (T, C)
        values[:, 0] += driver[self.lag :]
        values[:, 1:] += gain[1:] * driver[:T, None]
        n_train, n_test = int(0.7 * T), int(0.2 * T)
        return Table(values, pd.date_range("2024-01-01", periods=T, freq="h"), (n_train, T - n_train - n_test, n_test))


def _driver(generator: np.random.Generator, n: int) -> np.ndarray:
    rho = 0.85
    shock = np.sqrt(1 - rho**2) * generator.standard_normal(n)
    u = np.empty(n)
    u[0] = generator.standard_normal()
    for t in range(1, n):
        u[t] = rho * u[t - 1] + shock[t]
    return u
