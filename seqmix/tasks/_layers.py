"""Learning rates that fall towards the input, block by block, in the order in which a model calls its blocks."""

from typing import Any

import torch

from seqmix.vision import ImageModel


def layer_groups(
    model: ImageModel, groups: list[dict[str, Any]], lr: float, decay: float, img_size: int
) -> list[dict[str, Any]]:
    """Split groups of parameters by block: ``lr`` for the head, times ``decay`` for each block before it.

    Args:
        model: the model they are of.
        groups: groups of parameters, as an optimizer takes them.
        lr: learning rate of the head.
        decay: factor from one block to the block before it.
        img_size: side of images the model takes, in pixels.
    """
    depths = block_depths(model, img_size)
    depth_of = {p: depths[name] for name, p in model.named_parameters()}
    head = max(depths.values())
    split = []
    for group in groups:
        for depth in range(head + 1):
            members = [p for p in group["params"] if depth_of.get(p, head) == depth]
            if members:
                split.append({**group, "params": members, "lr": lr * decay ** (head - depth)})
    return split


def block_depths(model: ImageModel, img_size: int) -> dict[str, int]:
    """Number of the block of each parameter: 0 for the first block and what comes before it, and so on to the head.

    Blocks are the children of the stages. What lies between two of them goes with the later one.
    """
    called = _call_order(model, img_size)
    stages = tuple(f"{name}." for name in model.feature_info.module_name())
    blocks, depths = [], {}
    for owner in called:
        stage = next((s for s in stages if owner.startswith(s)), None)
        block = stage and stage + owner[len(stage) :].partition(".")[0]
        if block and block not in blocks:
            blocks.append(block)
        depths[owner] = blocks.index(block) if block else len(blocks)
    # a parameter of a module that is not called, but read, is of the innermost called module around it
    found = {}
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0]
        while owner and owner not in depths:
            owner = owner.rpartition(".")[0]
        found[name] = depths.get(owner, 0)
    return found


def _call_order(model: ImageModel, img_size: int) -> list[str]:
    """Names of the modules with parameters, in the order of their first call."""
    called: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name) if name not in called else None)
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters())
    ]
    was_training, like = model.training, next(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, model.in_chans, img_size, img_size, device=like.device, dtype=like.dtype))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return called
