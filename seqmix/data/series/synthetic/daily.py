"""Series with a daily cycle that depends on the day of the week: load, traffic, solar power, temperature."""

import numpy as np

from seqmix.data.series.synthetic._rows import autoregress, log_uniform, standardize

# phases of a day in a table: a multiple of 24, 48, 96 and 144
PHASES = 288


class _Clock:
    """Calendar of each step of each series: phase of the day, number of the day, weekday, holiday or not."""

    def __init__(self, n: int, length: int, periods: np.ndarray, rng: np.random.Generator):
        day = periods[:, :1].astype(int)
        cyclic = day > 1
        t = rng.integers(0, 7 * np.maximum(day, 1)) + np.arange(length)
        safe = np.maximum(day, 1)
        self.phase = np.where(cyclic, t % safe / safe, 0.0)  # (n, length)
        first = t[:, :1] // safe
        # days since the first one; all steps are of one day where there is no cycle
        self.day = np.where(cyclic, t // safe - first, 0)
        self.n_days = int(self.day.max()) + 1
        weekly = periods[:, 1:] > 1
        self.weekday = np.where(weekly, (self.day + first) % 7, 0)
        free = np.where(rng.random((n, 1)) < 0.8, 5, 6)
        self.holiday = self.of_day((rng.random((n, self.n_days)) < 0.02) & weekly) | (self.weekday >= free)

    def between(self, values: np.ndarray) -> np.ndarray:
        """Values at the beginning of each day ``(n, n_days + 1)``, interpolated at each step."""
        return (1 - self.phase) * self.of_day(values) + self.phase * self.of_day(values[:, 1:])

    def of_day(self, values: np.ndarray) -> np.ndarray:
        """Values of each day ``(n, n_days)``, at each step ``(n, length)``."""
        return np.take_along_axis(values, self.day, 1)


def daily_cycles(n: int, length: int, *, periods: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Series of a day and a week, each of one kind: load, counts of traffic, solar power, temperature, heated load.

    Args:
        n: number of series.
        length: their length.
        periods: steps of a day and of a week ``(n, 2)``; 0 where there is no such cycle.
        rng: generator of random numbers.

    Returns:
        Series ``(n, length)``.
    """
    clock = _Clock(n, length, periods, rng)
    load, temperature = _load(n, clock, rng), _temperature(n, clock, rng)
    memory = 1 - log_uniform(rng, 0.03, 1, (n, 1))
    noise = log_uniform(rng, 0.003, 0.2, (n, 1)) * standardize(autoregress(rng.standard_normal((n, length)), memory))
    comfort = rng.uniform(-1, 1.5, (n, 1))
    felt = np.maximum(rng.choice([-1, 1], (n, 1)) * temperature - comfort, 0)
    driven = load * (1 + rng.uniform(0.1, 0.6, (n, 1)) * felt)
    counts = rng.poisson(log_uniform(rng, 10, 3000, (n, 1)) * load * np.exp(noise))
    kind = rng.random((n, 1))
    return np.select(
        [kind < 0.45, kind < 0.65, kind < 0.75, kind < 0.87],
        [load * np.exp(noise), counts, _sun(n, clock, rng), temperature + 0.5 * noise],
        driven * np.exp(noise),
    )


def _load(n: int, clock: _Clock, rng: np.random.Generator) -> np.ndarray:
    """Positive series: daily profile of working days or holidays, times factors of weekday, day and slow drift."""
    work, other = _shapes(n, rng), _shapes(n, rng)
    alike = rng.beta(2, 1, (n, 1))
    rest = (alike * work + (1 - alike) * other) * rng.uniform(0.4, 1.1, (n, 1))
    table = np.concatenate([work, rest], 1)
    phase = np.round(clock.phase * PHASES).astype(int) + PHASES * clock.holiday
    floor = rng.uniform(0, 2, (n, 1)) * (rng.random((n, 1)) < 0.8)
    weekday = np.exp(log_uniform(rng, 0.01, 0.2, (n, 1)) * rng.standard_normal((n, 7)))
    days = (n, clock.n_days + 1)
    drift = log_uniform(rng, 0.003, 0.1, (n, 1)) * autoregress(rng.standard_normal(days), 0.9)
    each_day = drift + log_uniform(rng, 0.003, 0.1, (n, 1)) * rng.standard_normal(days)
    factors = np.take_along_axis(weekday, clock.weekday, 1) * np.exp(clock.between(each_day))
    return (floor + np.take_along_axis(table, phase, 1)) * factors


def _shapes(n: int, rng: np.random.Generator) -> np.ndarray:
    """Daily profiles ``(n, PHASES)`` of mean 1: one to four bumps ``exp(kappa (cos(phase - center) - 1))``."""
    phase = 2 * np.pi * np.arange(PHASES) / PHASES
    y, count = np.zeros((n, PHASES)), rng.integers(1, 5, (n, 1))
    for i in range(4):
        kappa, center = log_uniform(rng, 0.3, 12, (n, 1)), rng.uniform(0, 2 * np.pi, (n, 1))
        y += (i < count) * rng.lognormal(0, 0.7, (n, 1)) * np.exp(kappa * (np.cos(phase - center) - 1))
    return y / y.mean(1, keepdims=True)


def _sun(n: int, clock: _Clock, rng: np.random.Generator) -> np.ndarray:
    """Height of the sun, clipped at night, times the clouds of the day and of the hour."""
    height = np.maximum(-np.cos(2 * np.pi * clock.phase) - rng.uniform(-0.5, 0.5, (n, 1)), 0)
    day = rng.beta(rng.uniform(0.8, 6, (n, 1)), 1.2, (n, clock.n_days))
    passing = standardize(autoregress(rng.standard_normal(clock.phase.shape), 0.8))
    return height * clock.of_day(day) * np.exp(-log_uniform(rng, 0.01, 0.6, (n, 1)) * np.abs(passing))


def _temperature(n: int, clock: _Clock, rng: np.random.Generator) -> np.ndarray:
    """Daily wave whose height changes from day to day, on weather of several days."""
    wave = np.cos(2 * np.pi * (clock.phase - 0.6)) + 0.2 * np.cos(4 * np.pi * (clock.phase - rng.random((n, 1))))
    height = rng.lognormal(0, 0.4, (n, clock.n_days + 1)) * log_uniform(rng, 0.5, 4, (n, 1))
    memory = 1 - log_uniform(rng, 0.002, 0.03, (n, 1))
    weather = standardize(autoregress(rng.standard_normal(clock.phase.shape), memory))
    return weather + clock.between(height) * wave
