# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Find gaps and anomalies
#
# The sensors of a building, eight weeks by the quarter of an hour: temperature outside and inside, power, CO2. They
# depend on each other, on the hour and on the day of the week; they have gaps, and a few things went wrong. First the
# gaps are filled, then what went wrong is found, and last every day is classified by its curve of power. Nothing is
# downloaded, and everything runs on a CPU in seconds.

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import cross_val_score

from seqmix import AnomalyDetector, Classifier, Imputer

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
time = pd.date_range("2026-03-02", periods=8 * 7 * 96, freq="15min")
T, hour = len(time), time.hour + time.minute / 60


def wander(rho, size):
    """Noise with a memory: autoregressive."""
    noise = np.zeros(T)
    for t, step in enumerate(rng.normal(0, size, T)):
        noise[t] = rho * noise[t - 1] + step
    return noise


work = (time.day_of_week < 5) & (hour >= 8) & (hour < 18)
people = np.convolve(work, np.ones(8) / 8, "same") * rng.uniform(0.75, 1.25, 56).repeat(96)
outside = 6 + np.arange(T) / T * 8 + 5 * np.sin((hour - 9) / 12 * np.pi) + wander(0.995, 0.2)
inside = 20.5 + 0.8 * people + 0.06 * (outside - 10) + wander(0.97, 0.05)
power = 12 + 25 * people + 0.9 * np.clip(18 - outside, 0, None) + wander(0.8, 0.6)
co2 = 430 + 420 * np.convolve(people, np.exp(-np.arange(24) / 6) / 6.4)[:T] + wander(0.9, 6)
truth = pd.DataFrame({"time": time, "outside": outside, "inside": inside, "power": power, "co2": co2})

# %% [markdown]
# ## Gaps
#
# One value in fifty is lost, now and then a sensor is silent for hours, and twice all of them are.

# %%
sensors = truth.copy()
for name in ("outside", "inside", "power", "co2"):
    sensors.loc[rng.random(T) < 0.02, name] = np.nan
    for start in rng.integers(0, T - 60, 12):
        sensors.loc[start : start + rng.integers(8, 60), name] = np.nan
for start in (1000, 3000):
    sensors.loc[start : start + 24, ["outside", "inside", "power", "co2"]] = np.nan
print(sensors.isna().sum())

# %% [markdown]
# `fit_transform` gives the same frame without gaps; what was observed stays as it is. With `levels` each column has
# bounds too, calibrated on cells that the imputer hides from itself. The default is the conditional mean of a Gaussian
# over all values of a window: a gap of one sensor is filled from the others and from both sides. Linear interpolation
# is the baseline to beat.

# %%
channels = ["outside", "inside", "power", "co2"]
imputer = Imputer(levels=[80])
filled = imputer.fit_transform(sensors, time_col="time")
lines = Imputer("LinearInterpolation").fit_transform(sensors, time_col="time")

rows = {}
for name in channels:
    lost = sensors[name].isna()
    error = {
        model: (frame[name] - truth[name])[lost].abs().mean()
        for model, frame in (("Imputer", filled), ("linear", lines))
    }
    held = truth[name].between(filled[f"{name}-lo-80"], filled[f"{name}-hi-80"])[lost].mean()
    rows[name] = {**error, "inside the 80 % interval": held}
print(pd.DataFrame(rows).T.round(3))

# %%
imputer.plot(sensors, steps=500).savefig(folder / "gaps.png", dpi=110)

# %% [markdown]
# ## Anomalies
#
# Five weeks are normal. In the last three a window stays open over night, the heating runs on a Sunday, and a spike
# comes through the line. The detector gives each row a score: how far it is from its forecast, and how far the three
# and six hours around it (`season=12` steps, and twice that) are from those that were seen. So rows near an anomaly
# score high too. The threshold is a quantile of the normal weeks, and no later row moves it.

# %%
week = 7 * 96
faulty, label = filled[["time", *channels]].copy(), np.zeros(T, int)
faults = {
    "window": (6 * week + 2 * 96 + 80, 36, lambda x: x.assign(inside=x["inside"] - 3.5)),
    "sunday": (6 * week + 6 * 96 + 30, 44, lambda x: x.assign(power=x["power"] + 22)),
    "spike": (7 * week + 3 * 96 + 50, 2, lambda x: x.assign(outside=x["outside"] + 15)),
}
for start, length, change in faults.values():
    rows = slice(start, start + length)
    faulty.iloc[rows] = change(faulty.iloc[rows])
    label[rows] = 1

detector = AnomalyDetector(quantile=0.999, season=12).fit(faulty[: 5 * week], time_col="time")
last = faulty[4 * week :]  # a week before, so that the first rows have a past
score, flag = detector.score_samples(last), detector.predict(last)
print(f"threshold {detector.threshold_:.2f}; average precision {detector.score(last, label[4 * week :]):.2f}")
for name, (start, length, _) in faults.items():
    ours = slice(start - 4 * week, start - 4 * week + length)
    print(
        f"{name:8} {int(flag.iloc[ours].sum()):3} of {length} rows flagged, highest score {score.iloc[ours].max():.1f}"
    )

# %%
detector.plot(last, labels=label[4 * week :], max_channels=4).savefig(folder / "scores.png", dpi=110)

# %% [markdown]
# ## Days
#
# A day is a series of 96 steps. Which days are weekends, by the power and the CO2 of the day alone? Arrays go in as
# well as frames, and everything that scikit-learn does with a classifier works.

# %%
days = filled[["power", "co2"]].to_numpy().reshape(56, 96, 2)
kind = np.where(time[::96].day_of_week < 5, "working day", "weekend")
print("accuracy in four folds:", cross_val_score(Classifier(), days, kind, cv=4).round(2))

classifier = Classifier().fit(days[:28], kind[:28])
classifier.plot(days[28:], kind[28:]).savefig(folder / "days.png", dpi=110)
print(classifier.predict_proba(days[28:35]).round(2))

# %% [markdown]
# The same from the shell, for tables in files:
#
# ```
# seqmix impute sensors.csv --out filled.csv --levels 80 --plot gaps.png
# seqmix detect filled.csv --out scores.csv --plot scores.png
# ```

# %%
imputer.save(folder / "imputer")
again = Imputer.load(folder / "imputer").transform(sensors)
assert again.equals(filled)
