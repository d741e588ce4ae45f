"""The mixer contract, and the registry that lists its members.

The registry holds facts for listings, tests, benchmarks and documentation; nothing is ever constructed through it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least


class Mixer(nn.Module, ABC):
    """A module that mixes along a sequence: ``(B, L, D) -> (B, L, D)``.

    Members are built as ``Mixer(d_model, max_len=None, *, options)`` and are final. ``mask`` is ``(B, L)`` bool,
    True where a position is real. Masked positions contribute nothing and their output is zero.

    The ``forward`` of a causal mixer may have two more arguments: ``state``, what ``init_state``, ``step`` or an
    earlier call returned, and ``return_state``, which makes it return ``(y, state)``. A mixer without them advances by
    ``step``.

    Args:
        d_model: width D, to check inputs against. Default: any width.
        max_len: longest sequence, for mixers that store something per position.

    Raises:
        ConfigError: for sizes below 1, in the constructor of every member.
        ValueError: for an input of another rank or width, or a mask that does not go with it.
    """

    #: position i sees only positions 0..i; ``init_state`` and ``step`` are then expected too
    causal: bool = False
    #: ``forward(x)`` is exactly ``matrix(x) @ x``: no projections, no gates
    pure: bool = False
    #: positions do not meet: what ``forward`` gives at a position depends on that position alone
    pointwise: bool = False
    #: parameters that define a state space (rates, steps, skips); they stay in float32 at least when the module is
    #: converted to a half type, and weight decay spares them where the original code does
    state_space: tuple[str, ...] = ()
    _built_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Remember the arguments of the constructor, for ``reset_parameters``."""
        mixer = super().__new__(cls)
        object.__setattr__(mixer, "_built_with", (args, options))
        return mixer

    def __init__(self, d_model: int | None = None, max_len: int | None = None):
        super().__init__()
        check_at_least(1, d_model=d_model, max_len=max_len)
        self.d_model = d_model

    @property
    def label(self) -> str:
        """Name of the mixer in results."""
        return type(self).__name__

    def __call__(self, x: Tensor, mask: Tensor | None = None, *args: Any, **options: Any) -> Any:
        """Check the input and run ``forward``; an empty batch or length 0 gives an empty result."""
        name, shape = type(self).__name__, tuple(x.shape)
        if x.ndim != 3 or not x.is_floating_point():
            raise ValueError(f"{name} takes real x (B, L, D), got {x.dtype} {shape}; use x.unsqueeze(0) or x.float()")
        if self.d_model not in (None, shape[-1]):
            raise ValueError(f"{name} was built with d_model = {self.d_model}, got x {shape}; build it for that width")
        if mask is not None:
            check_mask(x, mask)
        if x.shape[0] and x.shape[1]:
            return super().__call__(x, mask, *args, **options)
        state = options.get("state")
        if options.get("return_state"):
            return x.clone(), self.init_state(x.shape[0]) if state is None else state
        return x.clone()

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix ``x: (B, L, D)`` along L.

        Args:
            x: input ``(B, L, D)``.
            mask: positions to keep ``(B, L)`` bool; the others give zero. Default: all.

        Causal mixers also take ``state``, the state before the first position (of ``init_state``, ``step`` or an
        earlier call), and with ``return_state=True`` return ``(y, state)`` after the last position. Some mixers take
        ``cu_seqlens``, bounds ``(S + 1,)`` of sequences packed into one row, B = 1; nothing crosses them.
        """

    def auxiliary(self) -> Tensor | None:
        """Return the auxiliary loss of the last forward in training, or None."""
        return None

    def matrix(self, x: Tensor) -> Tensor:
        """Return the mixing matrix for ``x`` as ``(B, G, L, L)``, where the G groups divide D."""
        raise TypeError(f"{type(self).__name__} has no matrix(); `seqmix list` shows the mixers that have one")

    def init_state(self, batch_size: int) -> Any:
        """Return the state before the first position, for ``step``; None for pointwise mixers."""
        if self.pointwise:
            return None
        raise TypeError(f"{type(self).__name__} has no step(); `seqmix list` shows the mixers that have one")

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Advance by one position: ``x: (B, D)``, state -> ``(B, D)``, state."""
        if self.pointwise:
            return self(x.unsqueeze(1)).squeeze(1), None
        raise TypeError(f"{type(self).__name__} has no step(); `seqmix list` shows the mixers that have one")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize all parameters and buffers again, in place, as after ``to_empty``.

        Those of the modules inside are drawn too: in a loop over modules call it after theirs.
        """
        own = self.state_dict()
        args, options = self._built_with
        with next(iter(own.values()), torch.empty(0)).device:
            fresh = type(self)(*args, **options)
        for name, tensor in fresh.state_dict().items():
            own[name].copy_(tensor)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay."""
        return {name for name, _ in self.named_parameters() if name in self.state_space}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Mixer":
        with stay_wide(self, {name for name, _ in self.named_parameters() if name in self.state_space}):
            return super()._apply(fn, recurse)


class MixerFactory(Protocol):
    """Factory of mixers: a class, ``functools.partial`` or config entry, called with width and length."""

    def __call__(self, d_model: int, max_len: int | None = None) -> Mixer:
        """Build a mixer of width ``d_model``."""
        ...


@dataclass(frozen=True)
class MixerFacts:
    """Facts about a registered mixer.

    Args:
        cls: the mixer class.
        paper: source, for example ``arXiv:2312.00752``.
        cost: growth of time with the length, for example ``L``, ``L log L``, ``L^2``.
        examples: option sets with which tests and benchmarks build it, the plainest first.
    """

    cls: type[Mixer]
    paper: str
    cost: str
    examples: tuple[Mapping[str, Any], ...]


_HALF = (torch.float16, torch.bfloat16)
_REGISTRY: dict[str, MixerFacts] = {}
M = TypeVar("M", bound=type[Mixer])


def register(*, paper: str, cost: str, variants: Sequence[Mapping[str, Any]] = (), **example: Any) -> Callable[[M], M]:
    """Register a mixer class under its own name.

    Args:
        paper: source.
        cost: growth of time with the length.
        variants: further option sets that the contract tests build.
        **example: options of the plainest instance, on top of which each variant is laid.
    """

    def enter(cls: M) -> M:
        examples = (example, *({**example, **v} for v in variants))
        _REGISTRY[cls.__name__] = MixerFacts(cls=cls, paper=paper, cost=cost, examples=examples)
        return cls

    return enter


def list_mixers() -> list[str]:
    """Names of the registered mixers, sorted."""
    return sorted(_REGISTRY)


def mixer_facts(name: str) -> MixerFacts:
    """Facts about a registered mixer; raises ``KeyError`` for an unknown name."""
    return _REGISTRY[name]


def auxiliary_loss(model: nn.Module) -> Tensor:
    """Sum of the auxiliary losses of the mixers in ``model`` after a forward in training; 0 if there are none.

    A training loop of your own adds it to its loss: ``loss + auxiliary_loss(model)``.
    """
    losses = [loss for m in model.modules() if isinstance(m, Mixer) and (loss := m.auxiliary()) is not None]
    return torch.stack(losses).sum() if losses else torch.zeros(())


@contextmanager
def stay_wide(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Keep the named parameters in float32 when ``module`` is converted to a half type."""
    before = {name: attrgetter(name)(module).data for name in names}
    yield
    for name, data in before.items():
        p = attrgetter(name)(module)
        if p.dtype in _HALF and data.dtype not in _HALF:
            p.data = data.to(p.device, torch.float32)
            p.grad = None if p.grad is None else p.grad.float()


def spared_parameters(module: nn.Module) -> set[str]:
    """Dotted names of the parameters for which a module inside ``module`` says so in ``no_weight_decay()``."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules(remove_duplicate=False)
        for name in getattr(part, "no_weight_decay", set)()
    }


def check_mask(x: Tensor, mask: Tensor) -> None:
    """Raise ``ValueError`` unless ``mask`` is bool of shape ``(B, L)`` for ``x: (B, L, D)``."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask should be bool (True = keep), got {mask.dtype}; use mask.bool()")
    if mask.shape != x.shape[:2]:
        raise ValueError(f"mask should be (B, L) = {tuple(x.shape[:2])} to go with x, got {tuple(mask.shape)}")


def zero_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set masked positions of ``x: (B, L, D)`` to zero, also if they are NaN."""
    if mask is None:
        return x
    check_mask(x, mask)
    return x.masked_fill(~mask.unsqueeze(-1), 0)


def require_max_len(mixer: Mixer, max_len: int | None, stored: str) -> int:
    """Return ``max_len``, or raise ``ConfigError`` if a mixer that stores something per position was given none."""
    if max_len is None:
        raise ConfigError(
            f"max_len is needed: {type(mixer).__name__} stores {stored}; set it in the backbone (max_len: 96)"
        )
    check_at_least(1, max_len=max_len)
    return max_len


def check_length(mixer: Mixer, x: Tensor, max_len: int) -> None:
    """Raise ``ValueError`` if ``x: (B, L, D)`` is longer than ``max_len`` of a mixer that stores positions."""
    if x.shape[1] > max_len:
        name, L = type(mixer).__name__, x.shape[1]
        raise ValueError(f"length {L} is over max_len = {max_len} of {name}; shorten x, or build it with max_len={L}")
