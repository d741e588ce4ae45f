# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Forecast a DataFrame
#
# A long frame, one row for each series and time, columns `unique_id, ds, y`; forecasts come back in the same form. Real
# data is taken from the folder in `$SEQMIX_DATA` where there is one: the airline passengers of Box and Jenkins.
# Elsewhere a generated series with trend and season is used.

# %%
import os
import tempfile
from pathlib import Path
from pprint import pprint

import numpy as np
import pandas as pd

from seqmix import Forecaster, check_frame

file = Path(os.environ.get("SEQMIX_DATA", "data")) / "air_passengers" / "AirPassengers.csv"
if file.exists():
    df = pd.read_csv(file).set_axis(["ds", "y"], axis=1).assign(unique_id="passengers")
else:
    t = np.arange(144)
    y = (110 + 2.6 * t) * (1 + 0.2 * np.sin(t / 6 * np.pi)) + np.random.default_rng(0).normal(0, 5, 144)
    df = pd.DataFrame({"unique_id": "made up", "ds": pd.date_range("1949-01-01", periods=144, freq="MS"), "y": y})

# %% [markdown]
# ## Look before you fit
#
# What would be refused is refused here, with ids, times and remedy: gaps, duplicates, text, a frequency that is not
# that of the data.

# %%
print(check_frame(df))

# %% [markdown]
# ## Fit, predict
#
# Any model by its name, and any mixer: `"Hydra"` is a forecaster as well. A list gives a column each. Intervals come
# from errors on the last rows, which were not trained on.

# %%
fc = Forecaster(["DLinear", "Hydra", "SeasonalNaive"], horizon=12, levels=[80], max_steps=60, learning_rate=3e-3)
fc.fit(df)
pprint(fc.report_, width=100, compact=True, sort_dicts=False)
print(*fc.notes_, sep="\n")
forecast = fc.predict()
print(forecast.head())

# %% [markdown]
# ## Would it have worked?
#
# Cross-validation forecasts the last years as if they were not known: everything is learned before the first cutoff,
# the scaling too. MASE below 1 is better than the seasonal naive forecast on the training rows.

# %%
cv = fc.cross_validation(df, n_windows=2)
print(fc.evaluate(cv, ("mae", "mase", "smape")).pivot(index="model", columns="metric", values="value").round(3))

# %% [markdown]
# ## Keep it
#
# Options and weights, as JSON and safetensors: no pickle. The folder alone goes on where the frame ended.

# %%
folder = Path(tempfile.mkdtemp())
fc.save(folder / "passengers")
again = Forecaster.load(folder / "passengers")
pd.testing.assert_frame_equal(again.predict(), forecast)

# %% [markdown]
# ## Look at it

# %%
figure = fc.plot(df, forecast[["unique_id", "ds", "DLinear", "DLinear-lo-80", "DLinear-hi-80"]])
figure.savefig(folder / "forecast.png", dpi=120)
