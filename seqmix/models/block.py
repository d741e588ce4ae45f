"""Blocks of backbones: a sequence mixer and a channel mixer, each with norm and residual."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_choice
from seqmix.mixers import Mixer, MixerFactory, zero_masked
from seqmix.mixers.norm import RMSNorm
from seqmix.mixers.state import unpack
from seqmix.models.dropout import Dropout
from seqmix.ops.packed import sequence_bounds

Norm = Literal["layer", "rms", "none"]
NORMS: dict[Norm, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "rms": RMSNorm, "none": nn.Identity}


class ChannelMLP(Mixer):
    """Feed-forward layers on each position: the channel mixer of Transformers and MetaFormers.

    ``y = W2 act(W1 x + b1) + b2``, or gated ``y = W2 (act(W1 x) * (V x)) + b2``. Built and called as a mixer, though
    positions do not meet.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D^2 expand).

    Args:
        d_model: width D.
        max_len: unused, every length works.
        expand: inner width as a multiple of D.
        activation: class of the nonlinearity.
        dropout: dropout probability, after the nonlinearity.
        gated: multiply by a second map of the input; both are without bias, as in MosaicBERT.

    Source: Vaswani et al., 2017, arXiv:1706.03762, eq. 2; gated: Shazeer, 2020, arXiv:2002.05202, eq. 6. Differs from
    the original code in: GELU by default.
    """

    causal = True
    pointwise = True

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        expand: float = 4,
        activation: Callable[[], nn.Module] = nn.GELU,
        dropout: float = 0.0,
        gated: bool = False,
    ):
        super().__init__(d_model, max_len)
        inner = inner_width(d_model, expand)
        self.gated = gated
        self.up = nn.Linear(d_model, 2 * inner if gated else inner, bias=not gated)
        self.act = activation()
        self.drop = Dropout(dropout)
        self.down = nn.Linear(inner, d_model)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, state: None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, None]:
        """Mix the features of ``x: (B, L, D)``; with ``return_state`` return the state too, which is None.

        ``mask: (B, L)`` bool, True = keep.
        """
        y = self.up(zero_masked(x, mask))
        if self.gated:
            gate, value = y.chunk(2, -1)
            y = self.act(gate) * value
        else:
            y = self.act(y)
        y = zero_masked(self.down(self.drop(y)), mask)
        return (y, None) if return_state else y


def inner_width(d_model: int, expand: float) -> int:
    """Width inside of layers that ``expand`` the width ``d_model``; raises ``ConfigError`` if none is left."""
    inner = int(expand * d_model)
    if inner < 1:
        raise ConfigError(f"expand = {expand} of d_model = {d_model} leaves no inner width; use expand=4")
    return inner


class Block(nn.Module):
    """Block of two residual branches ``x + f(norm(x))``: a sequence mixer, then a channel mixer.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: that of the two mixers.

    Args:
        d_model: width D.
        max_len: longest sequence, for mixers that store an L x L matrix.
        mixer: factory of the sequence mixer.
        channel_mixer: factory of the channel mixer. None: a block with one residual.
        norm: ``layer``, ``rms``, or ``none`` for mixers with a norm of their own: with ``LongVQ(norm="layer")`` the
            block has the gate of its source, pre-norm.
        channel_norm: norm of the channel mixer. Default: that of the sequence mixer.
        dropout: dropout probability on the output of each mixer.
        drop_path: probability to skip a mixer for a sample in training.
        layer_scale: initial value of a learned scale per feature on the output of each mixer. None: no scale.
        res_scale: initial value of a learned scale per feature on the skip. None: no scale.
        post_norm: ``norm(x + f(x))`` instead.

    Raises:
        ConfigError: if ``norm`` is not known.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2. Differs from the original code in: scales are off by default.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        mixer: MixerFactory,
        channel_mixer: MixerFactory | None = ChannelMLP,
        norm: Norm = "layer",
        channel_norm: Norm | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        res_scale: float | None = None,
        post_norm: bool = False,
    ):
        super().__init__()
        check_choice("norm", norm, tuple(NORMS))
        check_choice("channel_norm", channel_norm or norm, tuple(NORMS))
        parts: list[tuple[MixerFactory | None, Norm]] = [(mixer, norm), (channel_mixer, channel_norm or norm)]
        self.residuals = nn.ModuleList(
            _Residual(make(d_model, max_len), d_model, kind, dropout, drop_path, layer_scale, res_scale, post_norm)
            for make, kind in parts
            if make is not None
        )

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: list[Any] | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, list[Any]]:
        """Transform ``x: (B, L, D)``.

        Args:
            x: input ``(B, L, D)``.
            mask: positions to keep ``(B, L)`` bool.
            cu_seqlens: bounds ``(S + 1,)`` of sequences packed into one row, B = 1, without a mask.
            state: initial states of the mixers. Default: those before the first position.
            return_state: return ``(x, state)`` with the states after the last position.

        Raises:
            TypeError: if a state is given or asked for and a mixer sees later positions.
        """
        if state is None and not return_state:
            for residual in self.residuals:
                x = residual(x, mask, cu_seqlens)
            return x
        after = []
        for residual, before in zip(self.residuals, state or [None] * len(self.residuals), strict=True):
            x, now = cast(_Residual, residual).resume(x, mask, cu_seqlens, before)
            after.append(now)
        return (x, after) if return_state else x

    def init_state(self, batch_size: int) -> list[Any]:
        """The states of the mixers before the first position."""
        return [mixer.init_state(batch_size) for mixer in self.mixers]

    def step(self, x: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Advance by one position: ``x: (B, D)``, states -> ``(B, D)``, states."""
        after = []
        for residual, before in zip(self.residuals, state, strict=True):
            x, now = cast(_Residual, residual).step(x, before)
            after.append(now)
        return x, after

    @property
    def mixers(self) -> list[Mixer]:
        """The sequence mixer, and the channel mixer if there is one."""
        return [cast(_Residual, residual).mixer for residual in self.residuals]


class LayerScale(nn.Module):
    """A learned scale per feature, ``(..., D) -> (..., D)``.

    Args:
        d_model: width D.
        init: initial value.

    Source: Touvron et al., 2021, arXiv:2103.17239, eq. 4. Differs from the original code in: nothing.
    """

    def __init__(self, d_model: int, init: float):
        super().__init__()
        self.init = init
        self.scale = nn.Parameter(torch.full((d_model,), init))  # (D,)

    def reset_parameters(self) -> None:
        """Set the scale to its initial value."""
        nn.init.constant_(self.scale, self.init)

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x: (..., D)``."""
        return x * self.scale


class DropPath(nn.Module):
    """Stochastic depth: in training whole samples are zeroed with probability p, the others scaled by 1 / (1 - p).

    Args:
        p: probability, below 1.

    Raises:
        ConfigError: if ``p`` is out of range.

    Source: Huang et al., 2016, arXiv:1603.09382. Differs from the original code in: survivors are rescaled.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"drop_path = {p} should be at least 0 and below 1; use for example 0.1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x: (B, ...)``."""
        if not self.training or self.p == 0:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * (keep / (1 - self.p))


def mix(
    mixer: Mixer,
    x: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    beside: Mapping[str, Tensor | None] | None = None,
) -> Tensor:
    """Call ``mixer``; nothing crosses the bounds ``cu_seqlens`` of packed sequences.

    A mixer without an argument for bounds sees each sequence in a row of its own. ``beside`` holds further arguments,
    each with a value per position ``(B, L)``, for mixers that have one of that name.
    """
    given = {name: t for name, t in (beside or {}).items() if t is not None and takes(mixer, name)}
    if cu_seqlens is None or mixer.pointwise:
        return mixer(x, mask, **given)
    if takes(mixer, "cu_seqlens"):
        return mixer(x, mask, cu_seqlens=cu_seqlens, **given)
    sequence_bounds(x, cu_seqlens, mask)
    rows, kept = unpack(x, cu_seqlens)
    given = {name: unpack(t, cu_seqlens)[0] for name, t in given.items()}
    return mixer(rows, kept, **given)[kept].unsqueeze(0)


def resume(mixer: Mixer, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, state: Any) -> tuple[Tensor, Any]:
    """Call ``mixer`` with the initial state ``state``, None for the start, and return the state after it too.

    A mixer whose ``forward`` takes no state advances position by position.

    Raises:
        TypeError: if the mixer sees later positions, or steps and there is a mask or packed sequences.
    """
    if mixer.pointwise:
        return mixer(x, mask), None
    if cu_seqlens is not None and not takes(mixer, "cu_seqlens"):
        sequence_bounds(x, cu_seqlens, mask)
        rows, kept = unpack(x, cu_seqlens)
        y, state = resume(mixer, rows, kept, None, state)
        return y[kept].unsqueeze(0), state
    if takes(mixer, "state"):
        bounds = {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens}
        return mixer(x, mask, state=state, return_state=True, **bounds)
    state = mixer.init_state(len(x)) if state is None else state
    if mask is not None:
        raise TypeError(
            f"{type(mixer).__name__} has a state in step() alone, which takes no mask; give its forward the arguments "
            "state and return_state, or leave out the padding"
        )
    ys = []
    for position in x.unbind(1):
        y, state = mixer.step(position, state)
        ys.append(y)
    return torch.stack(ys, 1), state


def takes(mixer: Mixer, name: str) -> bool:
    """Whether ``forward`` of ``mixer`` has the argument ``name``."""
    return name in _arguments(type(mixer))


@cache
def _arguments(kind: type[Mixer]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


class _Residual(nn.Module):
    def __init__(
        self,
        mixer: Mixer,
        d_model: int,
        norm: Norm,
        dropout: float,
        drop_path: float,
        layer_scale: float | None,
        res_scale: float | None,
        post_norm: bool,
    ):
        super().__init__()
        self.post_norm = post_norm
        self.norm = NORMS[norm](d_model)
        self.mixer = mixer
        self.skip = nn.Identity() if res_scale is None else LayerScale(d_model, res_scale)
        self.scale = nn.Identity() if layer_scale is None else LayerScale(d_model, layer_scale)
        self.drop = nn.Sequential(Dropout(dropout), DropPath(drop_path))

    def forward(self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        y = mix(self.mixer, x if self.post_norm else self.norm(x), mask, cu_seqlens)
        return self._add(x, y)

    def resume(self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        y, state = resume(self.mixer, x if self.post_norm else self.norm(x), mask, cu_seqlens, state)
        return self._add(x, y), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.mixer.step(x if self.post_norm else self.norm(x), state)
        return self._add(x, y), state

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.skip(x) + self.drop(self.scale(y))
        return self.norm(x) if self.post_norm else x
