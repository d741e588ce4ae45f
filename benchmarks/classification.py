"""Classifiers of series on eight sets of the UCR and UEA archives: test accuracy and CPU seconds, beside aeon.

Every model is trained on all training series with the settings that ``configs/`` and the defaults have, which were
chosen by cross-validation inside the training files. The test series are used once. 1-NN DTW (no window, channels
together) and ROCKET with its ridge are those of aeon with their defaults; ROCKET sees series of different lengths
padded with zeros.

SEQMIX_DATA=... python benchmarks/classification.py --peer peer/bin/python   # appends to results/classification.csv
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from seqmix.data.series.ucr import UCR

SETS = (
    *("ACSF1", "ArrowHead", "BasicMotions", "GunPoint"),
    *("ItalyPowerDemand", "JapaneseVowels", "OSULeaf", "PLAID"),
)
PEERS = ("1-NN DTW", "ROCKET")


def peer(python: str, name: str, data: UCR, seed: int) -> dict[str, Any]:
    """Predictions of a model of aeon, with its own interpreter."""
    train, test = data._files()
    series = [*train.series, *test.series]
    lengths = [len(x) for x in series]
    x = np.zeros((len(series), data.n_channels, max(lengths)))
    for k, each in enumerate(series):
        x[k, :, : len(each)] = each.T
    labels = [data.class_names.index(label) for label in (*train.labels, *test.labels)]
    rows = np.arange(len(series)) < len(train.series)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/data.npz"
        np.savez(file, x=x, lengths=lengths, labels=labels, train=rows)
        script = Path(__file__).with_name("classification_peer.py")
        found = subprocess.run(
            [python, str(script), name, file, str(seed)], check=True, capture_output=True, text=True
        ).stdout
    return json.loads(found.splitlines()[-1])
