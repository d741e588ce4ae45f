"""The contract of classifiers of series, and the registry that lists them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers import zero_masked
from seqmix.mixers.mixer import check_mask


class SeriesClassifier(nn.Module, ABC):
    """Base of classifiers of multivariate series: ``(B, L, C) -> (B, n_classes)`` scores.

    Members are built as ``Model(n_channels, n_classes, max_len, *, options)``; the arguments before the star are facts
    of the data and not part of a config. Series of different lengths are padded and come with a mask.

    Args:
        n_channels: number of channels C.
        n_classes: number of classes.
        max_len: longest series, in time steps.

    Raises:
        ConfigError: if a size is below 1.
        ValueError: for an input of another rank, width or length, or a mask that does not go with it.
    """

    #: scores may see all of a series, whatever the mixers do
    causal: ClassVar[bool] = False
    #: whether all parameters come from ``fit_closed_form``, none from gradient steps
    closed_form: ClassVar[bool] = False

    def __init__(self, n_channels: int, n_classes: int, max_len: int):
        super().__init__()
        check_at_least(1, n_channels=n_channels, n_classes=n_classes, max_len=max_len)
        self.n_channels, self.n_classes, self.max_len = n_channels, n_classes, max_len

    @property
    def label(self) -> str:
        """Name of the model in results."""
        return type(self).__name__

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Check the input, zero it where it is masked, and run ``forward``."""
        name, shape = type(self).__name__, tuple(x.shape)
        if x.ndim != 3 or shape[2] != self.n_channels or not x.is_floating_point():
            want = f"real x of shape (B, L, {self.n_channels})"
            raise ValueError(f"{name} was built for {want}, got {x.dtype} {shape}; build it for that")
        if not 1 <= shape[1] <= self.max_len:
            raise ValueError(
                f"{name} was built for max_len = {self.max_len} time steps, got x {shape}; build it for that length"
            )
        if mask is not None:
            check_mask(x, mask)
        return super().__call__(zero_masked(x, mask), mask)

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score the classes of ``x: (B, L, C)``; ``mask: (B, L)`` bool, True = keep."""

    def fit_closed_form(self, train: Iterable[dict[str, Tensor]]) -> None:
        """Fit all parameters at once, for members with a closed form.

        Args:
            train: training batches ``x``, ``labels`` and, where lengths differ, ``mask``.
        """


class SeriesClassifierFactory(Protocol):
    """Factory of series classifiers: a class, ``functools.partial`` or config entry, called with sizes of the data."""

    def __call__(self, n_channels: int, n_classes: int, max_len: int) -> SeriesClassifier:
        """Build a model from the facts of the data."""
        ...


_REGISTRY: dict[str, tuple[type[SeriesClassifier], str, dict[str, Any]]] = {}
M = TypeVar("M", bound=type[SeriesClassifier])


def register_classifier(*, paper: str, **example: Any) -> Callable[[M], M]:
    """Register a classifier of series under its own name, with its source and the options of the tests."""

    def enter(cls: M) -> M:
        _REGISTRY[cls.__name__] = (cls, paper, example)
        return cls

    return enter


def list_classifiers() -> list[str]:
    """Names of the registered classifiers of series, sorted."""
    return sorted(_REGISTRY)


def classifier_facts(name: str) -> tuple[type[SeriesClassifier], str, dict[str, Any]]:
    """Class, paper and example options of a registered classifier; raises ``KeyError`` for an unknown name."""
    return _REGISTRY[name]
