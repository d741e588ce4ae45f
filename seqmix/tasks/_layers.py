"""Learning rates that fall towards the input, block by block."""

import re
from typing import Any

from seqmix.vision import ImageModel


def layer_groups(model: ImageModel, groups: list[dict[str, Any]], lr: float, decay: float) -> list[dict[str, Any]]:
    """Split groups of parameters by block: ``lr`` for the head, times ``decay`` for each block before it.

    Args:
        model: the model they are of.
        groups: groups of parameters, as an optimizer takes them.
        lr: learning rate of the head.
        decay: factor from one block to the block before it.
    """
    depths = block_depths(model)
    depth_of = {p: depths[name] for name, p in model.named_parameters()}
    head = max(depths.values())
    split = []
    for group in groups:
        for depth in range(head + 1):
            members = [p for p in group["params"] if depth_of.get(p, head) == depth]
            if members:
                split.append({**group, "params": members, "lr": lr * decay ** (head - depth)})
    return split


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
