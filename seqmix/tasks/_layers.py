"""Depths of the parameters of image models, for layer-wise learning-rate decay."""

import re

from seqmix.vision import ImageModel


def block_depths(model: ImageModel) -> dict[str, int]:
    """Number of the block of each parameter: 0 for the first block and the stem, and so on to the head."""
    matcher = model.group_matcher()
    patterns = [(re.compile(matcher["stem"]), (0, 0)), *((re.compile(p), place) for p, place in matcher["blocks"])]
    places = {
        name: next((place for pattern, place in patterns if pattern.match(name)), None)
        for name, _ in model.named_parameters()
    }
    order = sorted({place for place in places.values() if place is not None})
    return {name: len(order) if place is None else order.index(place) for name, place in places.items()}
