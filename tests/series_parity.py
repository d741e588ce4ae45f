"""What the originals of encoders and decoders of series gave, as the goldens hold it."""

import json
from pathlib import Path

import numpy as np
import torch


def case(file, name):
    """Config, original weights by name, and tensors of one model."""
    goldens = np.load(Path(__file__).parent / "goldens" / file)
    meta = json.loads(str(goldens[f"{name}.meta"]))
    flat, weights, at = goldens[f"{name}.weights"], {}, 0
    for key, shape in meta["shapes"].items():
        size = int(np.prod(shape))
        weights[key] = torch.from_numpy(flat[at : at + size].reshape(shape)).double()
        at += size
    tensors = {key: torch.from_numpy(goldens[f"{name}.{key}"]).double() for key in ("x", "y", "dy", "grad")}
    return meta, weights, tensors
