"""What ``classification.py --peer`` runs with the interpreter of aeon's environment; prints JSON.

python -m venv peer && peer/bin/pip install aeon==1.6.0
python benchmarks/classification.py --peer peer/bin/python
"""

import json
import sys
import time
from typing import Any

import numpy as np


def main(name: str, file: str, seed: int) -> dict[str, Any]:
    """Labels that a model of aeon predicts, and CPU seconds of fit and prediction.

    Args:
        name: ``1-NN DTW`` or ``ROCKET``.
        file: npz of ``x`` (cases, channels, steps), padded with zeros, ``lengths``, ``labels``, ``train`` (bool).
        seed: seed of the model.
    """
    data = np.load(file)
    x, labels, train = data["x"], data["labels"], data["train"]
    if name == "1-NN DTW":
        from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier

        model = KNeighborsTimeSeriesClassifier(n_neighbors=1, distance="dtw")
        series: Any = [each[:, :length] for each, length in zip(x, data["lengths"], strict=True)]
    else:
        from aeon.classification.convolution_based import RocketClassifier

        # it takes series of one length only
        model, series = RocketClassifier(random_state=seed), x

    def part(rows: np.ndarray) -> Any:
        return [series[k] for k in np.flatnonzero(rows)] if isinstance(series, list) else series[rows]

    # the first call compiles
    warm = np.flatnonzero(train)[:4]
    clone = type(model)(**model.get_params())
    clone.fit([series[k] for k in warm] if isinstance(series, list) else series[warm], np.arange(4) % 2)
    clone.predict([series[k] for k in warm[:1]] if isinstance(series, list) else series[warm[:1]])
    started = time.process_time()
    model.fit(part(train), labels[train])
    fitted = time.process_time()
    predicted = model.predict(part(~train))
    return {
        "predicted": [int(p) for p in predicted],
        "fit_s": fitted - started,
        "predict_s": time.process_time() - fitted,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
