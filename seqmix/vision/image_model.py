"""What an image model promises: logits, features, a pyramid and a classifier to exchange, under the names timm gave."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqmix.errors import ConfigError, check_choice

GlobalPool = Literal["avg", "max", "avgmax", ""]
_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "avgmax": lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2,
    # features last, so that a norm and a linear layer go on as they are
    "": lambda x: x.permute(0, 2, 3, 1),
}


class ImageOptions(TypedDict, total=False):
    """Options of every image model.

    Args:
        num_classes: classes K; 0 leaves the pooled features as they are.
        in_chans: channels of the images.
        drop_path_rate: probability to skip a branch for a sample in training, of the last block.
        drop_rate: dropout probability before the last linear layer.
        global_pool: how a map becomes a vector; empty keeps the map.
    """

    num_classes: int
    in_chans: int
    drop_path_rate: float
    drop_rate: float
    global_pool: GlobalPool


class FeatureInfo(list[dict[str, Any]]):
    """Channels, reduction (pixels per cell) and module name of each stage: a list of dicts with a column view."""

    def channels(self) -> list[int]:
        """Channels of each stage."""
        return [stage["num_chs"] for stage in self]

    def reduction(self) -> list[int]:
        """Pixels per cell of each stage."""
        return [stage["reduction"] for stage in self]

    def module_name(self) -> list[str]:
        """Name of the module whose output each stage is."""
        return [stage["module"] for stage in self]


class ImageModel(nn.Module, ABC):
    """A backbone on images with a classifier: ``(B, in_chans, H, W) -> (B, num_classes)``.

    A member yields its stages in ``stage_maps``, turns the last map into a vector in ``pre_logits``, and names its
    classifier, a linear layer. Everything else is here.

    Args:
        stages: channels, pixels per cell and module name of each stage.
        head: names of the modules after the last stage, which a pyramid does without.
        classifier: name of the last linear layer, for example ``head.fc2``.
        head_hidden_size: width of what the classifier takes.
        num_classes: classes K.
        in_chans: channels of the images.
        global_pool: how a map becomes a vector.
        num_features: channels of the last map; those of the last stage if not given.
        min_size: smallest height and width, in pixels; one cell of the last stage if not given.

    Raises:
        ConfigError: if ``global_pool`` is not known or ``num_classes`` is negative.
    """

    #: parts of parameter names that weight decay should spare besides everything with one axis or none
    undecayed: tuple[str, ...] = ()
    #: what published checkpoints may lack: parts of the names of parameters that then keep their initial values
    unpublished: tuple[str, ...] = ()
    #: parts of the names of parameters whose shapes follow the size of images
    sized: tuple[str, ...] = ()
    #: from timm's parameter names to ours: pattern and replacement, the first that matches
    timm_keys: tuple[tuple[str, str], ...] = ()
    #: size, normalization and crop the published weights expect, set by the registry
    default_cfg: Mapping[str, Any]

    def __init__(
        self,
        *,
        stages: Sequence[tuple[int, int, str]],
        head: Sequence[str],
        classifier: str,
        head_hidden_size: int,
        num_classes: int,
        in_chans: int,
        global_pool: GlobalPool = "avg",
        num_features: int | None = None,
        min_size: int | None = None,
    ):
        super().__init__()
        check_choice("global_pool", global_pool, tuple(_POOLS))
        self.feature_info = FeatureInfo({"num_chs": C, "reduction": s, "module": name} for C, s, name in stages)
        self.out_indices = tuple(range(len(stages)))
        self.head_names, self.classifier_name, self.head_hidden_size = tuple(head), classifier, head_hidden_size
        self.num_classes, self.in_chans = num_classes, in_chans
        self.global_pool: GlobalPool = global_pool
        self.num_features = num_features or stages[-1][0]
        self.min_size = min_size or stages[-1][1]
        self.grad_checkpointing = False
        self.default_cfg = {}

    @abstractmethod
    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the map of each stage ``(B, C, H / s, W / s)``, then the last features where they are another map."""

    @abstractmethod
    def pre_logits(self, x: Tensor) -> Tensor:
        """From the last map to what the classifier takes: ``(B, head_hidden_size)``, or features last and no pooling
        where ``global_pool`` is empty: ``(B, H, W, head_hidden_size)``.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x: (B, in_chans, H, W)``."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Last map, not pooled: ``(B, num_features, H / 32, W / 32)``."""
        self._check_images(x)
        *_, last = self.stage_maps(x)
        return last

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``(B, num_classes)`` of the last map, or what the classifier would take."""
        y = self.pre_logits(x)
        if not pre_logits:
            y = self.get_classifier()(y)
        return y if y.ndim == 2 else y.permute(0, 3, 1, 2)

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps of the stages in ``out_indices``, each ``(B, C, H / s, W / s)``."""
        self._check_images(x)
        maps = list(islice(self.stage_maps(x), max(self.out_indices) + 1))
        return [maps[i] for i in self.out_indices]

    def get_classifier(self) -> nn.Module:
        """Last linear layer, or the identity that stands for it where ``num_classes`` is 0."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: GlobalPool | None = None) -> None:
        """Put a fresh classifier in place, or none where ``num_classes`` is 0; ``global_pool`` too if given."""
        if global_pool is not None:
            check_choice("global_pool", global_pool, tuple(_POOLS))
            self.global_pool = global_pool
        like = next(self.parameters())
        fresh = linear_classifier(self.head_hidden_size, num_classes).to(like.device, like.dtype)
        parent, _, name = self.classifier_name.rpartition(".")
        setattr(self.get_submodule(parent), name, fresh)
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: blocks are computed again in the backward pass."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should spare: norms, biases, scales and ``undecayed``."""
        return {n for n, p in self.named_parameters() if p.ndim < 2 or any(part in n for part in self.undecayed)}

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """Apply a block, under gradient checkpointing where it is on."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def _check_images(self, x: Tensor) -> None:
        if x.ndim != 4:
            raise ValueError(f"x should be (B, C, H, W), got {tuple(x.shape)}; add an axis with x.unsqueeze(0)")
        if x.shape[1] != self.in_chans:
            raise ValueError(
                f"x has {x.shape[1]} channels, the model was built for in_chans = {self.in_chans}; "
                f"convert the images, or build it with in_chans={x.shape[1]}"
            )
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} pixels are too small for the strides of this model; "
                f"resize them to at least {self.min_size} x {self.min_size}"
            )


class FeaturePyramid(nn.Module):
    """An image model without its head: a list of maps, for detection and segmentation.

    Shapes: ``(B, in_chans, H, W) -> [(B, C, H / s, W / s), ...]``, C and s in ``feature_info``. Cost: that of the
    stages up to the last one asked for.

    Args:
        model: the image model; its head is taken off.
        out_indices: stages to return, negative from the end; an integer n for the last n; all if not given.

    Raises:
        ConfigError: if there is no such stage.
    """

    def __init__(self, model: ImageModel, *, out_indices: int | Sequence[int] | None = None):
        super().__init__()
        model.out_indices = stage_indices(out_indices, len(model.feature_info))
        for name in model.head_names:
            setattr(model, name, nn.Identity())
        self.model = model
        self.feature_info = FeatureInfo(model.feature_info[i] for i in model.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of the chosen stages of ``x: (B, in_chans, H, W)``."""
        return self.model.features(x)


def stage_indices(out_indices: int | Sequence[int] | None, n_stages: int) -> tuple[int, ...]:
    """Indices from zero, in order: of a list with negatives, of the last n, of all.

    Raises:
        ConfigError: if there is no such stage.
    """
    if out_indices is None:
        return tuple(range(n_stages))
    asked = tuple(range(-out_indices, 0)) if isinstance(out_indices, int) else tuple(out_indices)
    if not asked or not all(-n_stages <= i < n_stages for i in asked):
        raise ConfigError(f"out_indices = {out_indices!r} of {n_stages} stages; use numbers from 0 to {n_stages - 1}")
    return tuple(i % n_stages for i in asked)


def pool_map(x: Tensor, kind: GlobalPool) -> Tensor:
    """Reduce a map ``(B, C, H, W)`` to ``(B, C)``, or put its features last where ``kind`` is empty."""
    return _POOLS[kind](x)


def linear_classifier(width: int, num_classes: int) -> nn.Module:
    """Linear layer as in the papers, weights normal with std 0.02 and no bias at first; the identity for 0 classes.

    Raises:
        ConfigError: if ``num_classes`` is negative.
    """
    if num_classes < 0:
        raise ConfigError(f"num_classes = {num_classes} is negative; use 0 for a model without a classifier")
    if num_classes == 0:
        return nn.Identity()
    classifier = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(classifier.weight, std=0.02)
    nn.init.zeros_(classifier.bias)
    return classifier
