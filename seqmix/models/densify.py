"""Densify: replacement of the sequence mixers of a model by dense layers along the same axis (JustDense).

Park et al., 2025, arXiv:2508.09153.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.mixers import AlongFeatures, Dense, Mixer

DenseAxis = Literal["time", "patches", "variates", "embedded"]


class Replaced(NamedTuple):
    """Record of a replaced mixer: its place, name, axis, and input sizes.

    ``axis`` is ``time``, ``patches``, ``variates``, or ``embedded`` for the features of variates; ``sequence`` where
    the model does not say (text, pixels).
    """

    name: str
    mixer: str
    axis: str
    length: int
    width: int


@dataclass(frozen=True)
class Densify:
    """Replace the mixers of a model along one axis, or all of them, by ``Dense``, in place.

    ``Densify(axis="time")(model, inputs)``. The model runs once, so that each mixer shows the length and width it
    mixes. The model then takes no longer sequences than those in ``inputs``. A dense layer sees later positions: a
    model of causal mixers is refused, unless it says that its outputs may see all of its input (``causal = False``).
    Replaced mixers are removed entirely: every parameter of the result is trained.

    Args:
        axis: mix along ``time``, ``patches`` or ``variates``: sequence mixers of that axis are replaced. ``embedded``
            replaces the feed-forward layers of models whose tokens are variates by dense layers along the embedded
            time, and keeps their sequence mixers. Default: every sequence mixer, whatever its axis.
        names: shell patterns; only mixers whose dotted name in the model matches one of them are replaced.
        n_heads: matrices per mixer, each for an equal group of channels.
        head_dim: channels that share a matrix, in place of ``n_heads``; 2 in most twins of the study. With
            ``embedded`` the channels are variates, and 1 gives each its own matrix, as in the study.
        residual: add the input inside the dense layer too, as the study does on top of the residual of the block.
        scale: factor on the matrices. Default: 1 / sqrt(length).
        bias: add a learned number per head and position.

    Raises:
        ConfigError: if nothing matches, if a mixer takes no part in the forward pass and its replacement would be dead
            weight, if a causal model would see later positions, or if the heads do not divide a width. The model is
            then as it was.

    Source: Park et al., 2025, arXiv:2508.09153. Differs from the original code in: no second residual unless asked for;
    no projections, norms, gates and blocks that are counted but never reach the output; one matrix per mixer unless
    asked for more, not one per two channels; the dense layer takes the place of a whole Mamba block, and of the pair
    of S-Mamba (the study keeps projections and SiLU around it: ``MatrixMixer(matrix=Unstructured, data_dependent=False,
    gated=False)`` as the mixer of the model); over variates and not the embedded time for iTransformer unless asked
    for; no calendar tokens, whose number the original fixes at four; a matrix of the length of its layer for Informer,
    which halves the length, where that of the original fits the first layer only.
    """

    axis: DenseAxis | None = None
    names: tuple[str, ...] = ("*",)
    n_heads: int = 1
    head_dim: int | None = None
    residual: bool = False
    scale: float | None = None
    bias: bool = False

    def __post_init__(self):
        check_choice("axis", self.axis or "time", ("time", "patches", "variates", "embedded"))
        check_at_least(1, n_heads=self.n_heads, head_dim=self.head_dim)
        if self.head_dim is not None and self.n_heads > 1:
            raise ConfigError(
                f"n_heads = {self.n_heads} and head_dim = {self.head_dim} both give the number of matrices; use one"
            )

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Replaced]:
        """Replace mixers of ``model`` and return the replaced ones; make its optimizer afterwards.

        Args:
            model: any module that holds mixers.
            inputs: arguments of ``model.forward`` by name, of the full length; values do not matter.
        """
        places = _find(model, self.names, self.axis)
        if self.axis != "embedded":
            _check_causal(model, places)
        sizes = _measure(model, inputs, list(places))
        idle = [place.paths[0] for mixer, place in places.items() if mixer not in sizes]
        if idle:
            raise ConfigError(f"mixers {idle} take no part in the forward pass; leave them out with names=...")
        dense = {mixer: self._dense(places[mixer].paths[0], mixer, *sizes[mixer]) for mixer in places}
        for mixer, place in places.items():
            # a mixer that several layers share is still shared afterwards
            for path in place.paths:
                model.set_submodule(path, dense[mixer])
        return [Replaced(p.paths[0], type(m).__name__, p.axis, *self._sizes(sizes[m][0])) for m, p in places.items()]

    def _sizes(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Length and width of a dense layer for inputs ``(B, *shape)``."""
        return (shape[1], shape[0]) if self.axis == "embedded" else shape

    def _dense(self, name: str, mixer: Mixer, shape: tuple[int, int], like: Tensor) -> Mixer:
        _, width = self._sizes(shape)
        n_heads = self.n_heads if self.head_dim is None else width // self.head_dim
        if width % n_heads or (self.head_dim is not None and width % self.head_dim):
            option = f"n_heads = {n_heads}" if self.head_dim is None else f"head_dim = {self.head_dim}"
            raise ConfigError(f"{option} does not divide the {width} channels that {name} mixes; use a divisor")
        make = partial(Dense, n_heads=n_heads, residual=self.residual, scale=self.scale, bias=self.bias)
        L, D = shape
        layer = AlongFeatures(D, L, mixer=make) if self.axis == "embedded" else make(D, L)
        return layer.to(like.device, like.dtype).train(mixer.training)


class _Place(NamedTuple):
    paths: list[str]  # dotted names of a mixer in the model
    axis: str


def _find(model: nn.Module, names: tuple[str, ...], axis: DenseAxis | None) -> dict[Mixer, _Place]:
    """Mixers to replace and where they are, the outermost where one holds others."""
    found: dict[Mixer, _Place] = {}
    others: set[str] = set()
    inside: tuple[str, ...] = ()
    seen = False
    for path, module in model.named_modules(remove_duplicate=False):
        if not path or not isinstance(module, Mixer) or path.startswith(inside):
            continue
        inside += (f"{path}.",)
        along, within = _axis(model, path), module.pointwise and not module.pure
        if within:
            # features of a variate are its embedded time, those of other tokens have no name
            if axis != "embedded" or along != "variates":
                continue
            along = "embedded"
        seen = True
        if axis not in (None, along):
            others.add(along)
        elif any(fnmatchcase(path, name) for name in names):
            found.setdefault(module, _Place([], along)).paths.append(path)
    if found:
        return found
    name = getattr(model, "label", type(model).__name__)
    if not seen:
        raise ConfigError(f"{name} has no sequence mixer, so there is nothing to replace; leave densify out")
    if others and axis is not None:
        raise ConfigError(f"no mixer of {name} mixes along axis = {axis!r}; use {' or '.join(sorted(others))}")
    raise ConfigError(f"no mixer in {name} matches names = {list(names)}; use names=('*',)")


def _axis(model: nn.Module, path: str) -> str:
    """The axis that the nearest module around the mixer says it mixes along."""
    while path:
        path = path.rpartition(".")[0]
        axis = getattr(model.get_submodule(path), "axis", None)
        if isinstance(axis, str):
            return axis
    return "sequence"


def _check_causal(model: nn.Module, places: Mapping[Mixer, _Place]) -> None:
    says = getattr(model, "causal", None)
    causal = [
        f"{place.paths[0]} ({mixer.label})"
        for mixer, place in places.items()
        if mixer.causal and (says or not mixer.pointwise)
    ]
    if causal and says is not False:
        raise ConfigError(
            f"a dense layer in place of {', '.join(causal)} would see later positions, which a causal model must not; "
            "densify a model of bidirectional mixers"
        )


def _measure(
    model: nn.Module, inputs: Mapping[str, Tensor], mixers: list[Mixer]
) -> dict[Mixer, tuple[tuple[int, int], Tensor]]:
    """Longest length and width, and an output, of each of ``mixers`` that the model calls."""
    seen: dict[Mixer, tuple[tuple[int, int], Tensor]] = {}

    def look(mixer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        assert isinstance(mixer, Mixer)
        longest = seen[mixer][0][0] if mixer in seen else 0
        seen[mixer] = (max(longest, y.shape[1]), y.shape[2]), y

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
