"""What an installed seqmix has to do, far from its clone: the commands without a download, one forecast, its kernels.

Run as ``python smoke.py`` in an empty folder.
"""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd

import seqmix
from seqmix.ops import native

assert Path.cwd() not in Path(seqmix.__file__).parents, "run it outside the clone"
for command in ("--help", "info", "list mixers", "fit --config demo --trainer.max_epochs 1", "matrix --mixer Hydra"):
    subprocess.run(["seqmix", *command.split()], check=True, stdout=subprocess.DEVNULL)
assert list(Path("runs/demo").glob("*/results.csv"))
# a published config by its name, from any folder, on generated data
few = [f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test")]
subprocess.run(
    [
        "seqmix",
        "fit",
        "--config",
        "tsm2_etth1.yaml",
        "--data=Cycles",
        "--data.context=512",
        "--trainer.max_epochs=1",
        *few,
    ],
    check=True,
)
assert list(Path("runs/tsm2_etth1").glob("*/results.csv"))
wrong = subprocess.run(["seqmix", "fit", "--config", "tsm2_eth1"], capture_output=True, text=True)
assert wrong.returncode == 2 and "Did you mean 'tsm2_etth1'" in wrong.stderr, wrong.stderr

t = np.arange(24 * 60)
df = pd.DataFrame({"ds": pd.date_range("2026-01-01", periods=len(t), freq="h"), "y": 10 + np.sin(t * np.pi / 12)})
forecaster = seqmix.Forecaster(["DLinear", "Mamba"], horizon=24, levels=[80], max_steps=20).fit(df)
forecaster.save("saved")
forecast = seqmix.Forecaster.load("saved").predict()
assert len(forecast) == 24 and forecast.notna().all(axis=None)
# the weights come with the package
assert abs(seqmix.Forecaster("ZeroShot", horizon=24).predict(df)["ZeroShot"] - df["y"].tail(24).to_numpy()).max() < 0.2
print(f"seqmix {seqmix.__version__} from {Path(seqmix.__file__).parent}; kernels: {native.problem() or 'compiled'}")
