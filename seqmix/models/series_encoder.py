"""The contract of encoders of series, and their registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers import zero_masked
from seqmix.mixers.mixer import check_mask

Axis = Literal["time", "patches", "variates"]


class SeriesEncoder(nn.Module, ABC):
    """Base of encoders of windows of multivariate series: ``(B, L, C) -> (B, N, D)``, tokens that a head reads.

    Members are built as ``Encoder(n_channels, length, *, options)``; the arguments before the star are facts of the
    data and not part of a config. Windows are normalized by the task, not by the encoder. Masked time steps are zero
    when ``forward`` sees them and contribute nothing.

    Args:
        n_channels: number of channels (variates) C.
        length: time steps of a window L.
        d_model: width of a token D.

    Raises:
        ConfigError: for sizes below 1.
        ValueError: for a window of another shape than the encoder was built for, or a mask that does not go with it.
    """

    #: what the tokens are: ``time`` steps (N = L, or fewer), ``patches`` (N = C times the patches of a variate, all
    #: those of the first variate first), or ``variates`` (N = C)
    axis: ClassVar[Axis]
    #: whether channels meet, so that aligned series are better encoded together
    mixes_channels: ClassVar[bool] = True
    #: tokens may see all of the window, whatever the mixers do
    causal: ClassVar[bool] = False
    #: number of tokens N
    n_tokens: int

    def __init__(self, n_channels: int, length: int, d_model: int):
        super().__init__()
        check_at_least(1, n_channels=n_channels, length=length, d_model=d_model)
        self.n_channels, self.length, self.d_model = n_channels, length, d_model

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Check the input, set masked steps to zero, and run ``forward``."""
        if x.ndim != 3 or x.shape[1:] != (self.length, self.n_channels) or not x.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} was built for real x of shape (B, {self.length}, {self.n_channels}), got "
                f"{x.dtype} {tuple(x.shape)}; build it for that"
            )
        if mask is not None:
            check_mask(x, mask)
        return super().__call__(zero_masked(x, mask), mask)

    @property
    def label(self) -> str:
        """Name of the encoder in results."""
        return type(self).__name__

    def kept(self, mask: Tensor) -> Tensor | None:
        """Tokens that hold a kept time step ``(B, N)`` bool, of ``mask: (B, L)``; None for all tokens."""
        return mask if self.axis == "time" else None

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode windows; tokens without a kept time step are zero.

        Args:
            x: windows ``(B, L, C)``, zero where they are masked.
            mask: time steps to keep ``(B, L)`` bool. Default: all.
        """


class SeriesEncoderFactory(Protocol):
    """Factory of encoders: a class, ``functools.partial`` or config entry, called with the facts of the data."""

    def __call__(self, n_channels: int, length: int) -> SeriesEncoder:
        """Build an encoder of windows ``(B, length, n_channels)``."""
        ...


_REGISTRY: dict[str, tuple[type[SeriesEncoder], str, dict[str, Any]]] = {}
E = TypeVar("E", bound=type[SeriesEncoder])


def register_encoder(*, paper: str, **example: Any) -> Callable[[E], E]:
    """Register an encoder under its own name, with its source and the options of the tests."""

    def enter(cls: E) -> E:
        _REGISTRY[cls.__name__] = (cls, paper, example)
        return cls

    return enter


def list_encoders() -> list[str]:
    """Names of the registered encoders, sorted."""
    return sorted(_REGISTRY)


def encoder_facts(name: str) -> tuple[type[SeriesEncoder], str, dict[str, Any]]:
    """Class, paper and example options of a registered encoder; raises ``KeyError`` for an unknown name."""
    return _REGISTRY[name]
