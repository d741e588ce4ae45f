"""JustDense: is the sequence mixer of a model needed? Put a dense layer along the sequence in its place and see.

Park et al., 2025, arXiv:2508.09153.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers import Dense, Mixer


class Replaced(NamedTuple):
    """A mixer that made way: where it stood, what it was, and the sizes of the sequences it saw."""

    name: str
    mixer: str
    length: int
    width: int


def densify(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    names: Sequence[str] = ("*",),
    keep: tuple[type[Mixer], ...] | None = None,
    n_heads: int = 1,
    residual: bool = False,
    scale: float | None = None,
    bias: bool = False,
) -> list[Replaced]:
    """Replace the sequence mixers inside ``model`` by ``Dense``, in place, and return what was replaced.

    The model runs once, so that each mixer shows the length and width it mixes: the axis of a dense layer is that of
    the mixer it replaces. The lengths of the result say which axis it is, ``names`` restricts the change to one axis.
    The model then takes no longer sequences than those in ``inputs``. A dense layer sees later positions: a model of
    causal mixers is refused, unless it says that its outputs may see all of its input (``causal = False``).

    Args:
        model: any module that holds mixers; make its optimizer afterwards.
        inputs: arguments of ``model.forward`` by name, of the full length; values do not matter.
        names: shell patterns; only mixers whose dotted name in the model matches one of them are replaced.
        keep: classes that stay. Default: mixers of channels, in which positions do not meet.
        n_heads: matrices per mixer, each for an equal group of channels; the study has up to half the width.
        residual: add the input inside the dense layer too, as the study does on top of the residual of the block.
        scale: factor on the matrices. Default: 1 / sqrt(length).
        bias: add a learned number per head and position.

    Raises:
        ConfigError: if nothing matches, if a mixer takes no part in the forward pass and its replacement would be dead
            weight, if a causal model would see later positions, or if ``n_heads`` does not divide a width. The model is
            then as it was.

    Source: Park et al., 2025, arXiv:2508.09153. Differs from the original code in: no second residual unless asked for;
    no projections and norms that are counted but never reach the output.
    """
    places = _find(model, names, keep)
    if not places:
        raise ConfigError(f"no mixer in {type(model).__name__} matches names = {list(names)}; use names=('*',)")
    says = getattr(model, "causal", None)
    causal = [
        f"{p[0]} ({mixer.label})" for mixer, p in places.items() if mixer.causal and (says or not mixer.pointwise)
    ]
    if causal and says is not False:
        raise ConfigError(
            f"a dense layer in place of {', '.join(causal)} would see later positions, which a causal model must not; "
            "densify a model of bidirectional mixers"
        )
    sizes = _measure(model, inputs, list(places))
    idle = [paths[0] for mixer, paths in places.items() if mixer not in sizes]
    if idle:
        raise ConfigError(f"mixers {idle} take no part in the forward pass; leave them out with names=...")
    dense = {}
    for mixer, (L, D, like) in sizes.items():
        layer = Dense(D, L, n_heads=n_heads, residual=residual, scale=scale, bias=bias)
        dense[mixer] = layer.to(like.device, like.dtype).train(mixer.training)
    for mixer, paths in places.items():
        # a mixer that several layers share is still shared afterwards
        for path in paths:
            model.set_submodule(path, dense[mixer])
    return [Replaced(paths[0], type(mixer).__name__, *sizes[mixer][:2]) for mixer, paths in places.items()]


def _find(model: nn.Module, names: Sequence[str], keep: tuple[type[Mixer], ...] | None) -> dict[Mixer, list[str]]:
    """Mixers to replace with their dotted names, the outermost where one holds others."""
    found: dict[Mixer, list[str]] = {}
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules(remove_duplicate=False):
        if not path or not isinstance(module, Mixer) or path.startswith(inside):
            continue
        inside += (f"{path}.",)
        stays = module.pointwise and not module.pure if keep is None else isinstance(module, keep)
        if not stays and any(fnmatchcase(path, name) for name in names):
            found.setdefault(module, []).append(path)
    return found


def _measure(
    model: nn.Module, inputs: Mapping[str, Tensor], mixers: list[Mixer]
) -> dict[Mixer, tuple[int, int, Tensor]]:
    """Longest length, width and an input of each of ``mixers`` that the model calls."""
    seen: dict[Mixer, tuple[int, int, Tensor]] = {}

    def look(mixer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        assert isinstance(mixer, Mixer)
        longest = seen[mixer][0] if mixer in seen else 0
        seen[mixer] = (max(longest, y.shape[1]), y.shape[2], y)

    modes = {module: module.training for module in model.modules()}
    hooks = [mixer.register_forward_hook(look) for mixer in mixers]
    try:
        with torch.no_grad():
            model.eval()(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return seen
