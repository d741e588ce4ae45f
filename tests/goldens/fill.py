"""Rebuild the seeded weights and inputs behind the golden outputs of this folder.

A golden of an image model is two files: ``<variant>.json`` (state-dict entries, seed, input shapes) and
``<variant>.npz`` (outputs of the original implementation, float32, ``output_0``, ``output_1`` ...).
The weights are not stored: every tensor is a function of its state-dict key, its shape and the seed.

    import fill
    golden = fill.load("caformer_s18")          # dict: variant, state_dict, inputs, outputs, parameters
    model.load_state_dict(golden["state_dict"])  # keys and shapes of the original checkpoints
    model.eval()(golden["inputs"][0])            # must equal golden["outputs"][0]
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def tensor(key, shape, seed, damp=()):
    """The seeded value of one floating-point state-dict entry."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:8]
    g = torch.Generator().manual_seed(int(digest, 16))
    leaf, ndim = key.split(".")[-1], len(shape)
    if leaf == "random_matrix":
        return torch.softmax(torch.rand(shape, generator=g), dim=-1)
    if leaf == "running_var":
        return 0.5 + torch.rand(shape, generator=g)
    if leaf == "running_mean":
        return 0.3 * torch.randn(shape, generator=g)
    if "layer_scale" in key:
        return 0.2 + 0.3 * torch.rand(shape, generator=g)
    if "res_scale" in key:
        return 0.7 + 0.4 * torch.rand(shape, generator=g)
    if leaf == "scale" and math.prod(shape) == 1:
        return 0.8 + 0.4 * torch.rand(shape, generator=g)
    if ndim <= 1 and leaf == "weight":
        return 0.7 + 0.6 * torch.rand(shape, generator=g)
    if ndim <= 1:
        return 0.2 * torch.randn(shape, generator=g)
    if leaf in ("w1", "w2") and ndim == 4:
        return torch.randn(shape, generator=g) * (0.6 / math.sqrt(shape[-2]))
    if leaf in ("b1", "b2") and ndim == 3:
        return 0.1 * torch.randn(shape, generator=g)
    if "pos_embed" in key:
        return 0.2 * torch.randn(shape, generator=g)
    fan_in = math.prod(shape[1:]) if ndim > 1 else math.prod(shape)
    gain = 0.3 if any(part in key for part in damp) else 1.0
    return torch.randn(shape, generator=g) * (gain / math.sqrt(max(fan_in, 1)))


def load(variant, folder=HERE):
    """Weights, inputs and expected outputs of one variant."""
    meta = json.loads((Path(folder) / f"{variant}.json").read_text())
    state_dict = {}
    for key, shape, dtype, _ in meta["entries"]:
        if dtype.startswith("int") or dtype == "bool":
            state_dict[key] = torch.zeros(shape, dtype=getattr(torch, dtype))
        else:
            state_dict[key] = tensor(key, tuple(shape), meta["seed"], meta["damp"])
    inputs = [torch.randn(s, generator=torch.Generator().manual_seed(meta["input_seed"])) for s in meta["inputs"]]
    with np.load(Path(folder) / f"{variant}.npz") as stored:
        outputs = [torch.from_numpy(stored[f"output_{i}"]) for i in range(len(inputs))]
    kept = {key: meta[key] for key in ("variant", "system", "parameters", "trainable")}
    return {**kept, "state_dict": state_dict, "inputs": inputs, "outputs": outputs}
