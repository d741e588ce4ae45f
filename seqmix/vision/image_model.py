"""The contract of image models: logits, features, feature pyramid and classifier, with the names of timm."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, TypedDict

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.vision.grid_mixer import GridMixer

GlobalPool = Literal["avg", "max", "avgmax", ""]
_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "avgmax": lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2,
    # channels last, as norms and linear layers expect
    "": lambda x: x.permute(0, 2, 3, 1),
}


# default preprocessing of published checkpoints; mean and std are those of ImageNet
DEFAULT_CFG: dict[str, Any] = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "fixed_input_size": False,
    "pool_size": (7, 7),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
}


class ImageOptions(TypedDict, total=False):
    """Options of every image model.

    Args:
        num_classes: classes K; 0 leaves the pooled features as they are.
        in_chans: channels of the images.
        drop_path_rate: probability to skip a branch for a sample in training, of the last block.
        drop_rate: dropout probability before the last linear layer.
        global_pool: pooling of a map to a vector; empty keeps the map.
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
    """Base of image models: ``(B, in_chans, H, W) -> (B, num_classes)``.

    A member yields its stages in ``stage_maps``, turns the last map into a vector in ``pre_logits``, and names its
    stages and its classifier, a linear layer. Everything else is here.

    Args:
        stages: channels, pixels per cell and module name of each stage; the module gives the map of the stage, and has
            an attribute ``grad_checkpointing``.
        before: names of the modules and parameters that stand before each stage, after the stage before it.
        head: names of the modules after the last stage, which a pyramid does without.
        classifier: name of the last linear layer, for example ``head.fc2``.
        head_hidden_size: width of what the classifier takes.
        num_classes: classes K; 0 leaves the pooled features as they are.
        in_chans: channels of the images.
        global_pool: pooling of the last map to a vector; empty keeps the map.
        img_size: height and width the model is made for, in pixels, or the side of a square. Default: any.
        num_features: channels of the last map. Default: those of the last stage.
        min_size: smallest height and width, in pixels. Default: one cell of the last stage.

    Raises:
        ConfigError: if ``global_pool`` is not known, ``in_chans`` is not positive or ``num_classes`` is negative.
    """

    #: scores may see all of an image, whatever the order in which mixers read it
    causal: ClassVar[bool] = False
    #: parts of parameter names that weight decay should spare besides everything with one axis or none
    undecayed: tuple[str, ...] = ()
    #: what published checkpoints may lack: parts of the names of parameters that then keep their initial values
    unpublished: tuple[str, ...] = ()
    #: parts of the names of parameters whose shapes follow the size of images
    sized: tuple[str, ...] = ()
    #: from timm's parameter names to ours: pattern and replacement, the first that matches
    timm_keys: tuple[tuple[str, str], ...] = ()
    #: what published weights expect of images, set by the registry; ``default_cfg`` is what this model takes
    pretrained_cfg: Mapping[str, Any]

    def __init__(
        self,
        *,
        stages: Sequence[tuple[int, int, str]],
        before: Sequence[Sequence[str]],
        head: Sequence[str],
        classifier: str,
        head_hidden_size: int,
        num_classes: int,
        in_chans: int,
        global_pool: GlobalPool = "avg",
        img_size: int | tuple[int, int] | None = None,
        num_features: int | None = None,
        min_size: int | None = None,
    ):
        super().__init__()
        check_choice("global_pool", global_pool, tuple(_POOLS))
        check_at_least(1, in_chans=in_chans)
        self.feature_info = FeatureInfo({"num_chs": C, "reduction": s, "module": name} for C, s, name in stages)
        self.out_indices = tuple(range(len(stages)))
        self.before, self.head_names = tuple(map(tuple, before)), tuple(head)
        self.classifier_name, self.head_hidden_size = classifier, head_hidden_size
        self.num_classes, self.in_chans = num_classes, in_chans
        self.global_pool: GlobalPool = global_pool
        self.num_features = num_features or stages[-1][0]
        self.min_size = min_size or stages[-1][1]
        self.input_size = (img_size, img_size) if isinstance(img_size, int) else img_size
        if self.input_size is not None:
            check_at_least(self.min_size, img_size=min(self.input_size))
        #: names of the norms that maps get in ``features``, by stage
        self.map_norms: dict[int, str] = {}
        self.absent: tuple[str, ...] = ()
        self._frozen: tuple[str, ...] = ()
        self.pretrained_cfg = {}

    @abstractmethod
    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the map of each stage ``(B, C, H / s, W / s)``, then the last features where they are another map."""

    @abstractmethod
    def pre_logits(self, x: Tensor) -> Tensor:
        """From the last map to the input of the classifier: ``(B, head_hidden_size)``, or features last and no pooling
        where ``global_pool`` is empty: ``(B, H, W, head_hidden_size)``.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x: (B, in_chans, H, W)``."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Last map, not pooled: ``(B, num_features, H / 32, W / 32)``."""
        check_images(x, self.in_chans, self.min_size)
        *_, last = self.stage_maps(x)
        return last

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``(B, num_classes)`` of the last map, or the input of the classifier."""
        y = self.pre_logits(x)
        if not pre_logits:
            y = self.get_classifier()(y)
        return y if self.global_pool else y.permute(0, 3, 1, 2)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Last map, and the maps of the chosen stages, each ``(B, C, H / s, W / s)``.

        Args:
            x: images ``(B, in_chans, H, W)``.
            indices: stages, negative from the end; an integer n for the last n. Default: all.
            stop_early: compute no stage after the last one chosen; with ``intermediates_only``.
            intermediates_only: return the list of maps alone.
        """
        chosen = stage_indices(indices, len(self.feature_info))
        check_images(x, self.in_chans, self.min_size)
        maps = list(islice(self.stage_maps(x), max(chosen) + 1 if stop_early and intermediates_only else None))
        intermediates = [maps[i] for i in chosen]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps of the stages in ``out_indices``, each ``(B, C, H / s, W / s)``."""
        maps = self.forward_intermediates(x, self.out_indices, stop_early=True, intermediates_only=True)
        assert isinstance(maps, list)
        return maps

    @property
    def default_cfg(self) -> Mapping[str, Any]:
        """Configuration of the model: classes, input size, normalization, crop; with changes to the published one."""
        published = {**DEFAULT_CFG, **self.pretrained_cfg}
        height, width = self.input_size or published["input_size"][1:]
        stride = self.feature_info.reduction()[-1]
        return {
            **published,
            "num_classes": self.num_classes,
            "input_size": (self.in_chans, height, width),
            "pool_size": (math.ceil(height / stride), math.ceil(width / stride)),
            "mean": _of_channels(published["mean"], self.in_chans),
            "std": _of_channels(published["std"], self.in_chans),
            "classifier": self.classifier_name,
        }

    @property
    def label(self) -> str:
        """Name of the model in results: its name, or its class and its grid mixers."""
        if "architecture" in self.pretrained_cfg:
            return self.pretrained_cfg["architecture"]
        mixers = dict.fromkeys(m.label for m in self.modules() if isinstance(m, GridMixer))
        return f"{type(self).__name__} ({'+'.join(mixers)})" if mixers else type(self).__name__

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
        """Recompute blocks in the backward pass: less memory, more time, the same running statistics."""
        for name in self.feature_info.module_name():
            if name not in self.absent:
                setattr(self.get_submodule(name), "grad_checkpointing", enable)  # noqa: B010

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should spare: norms, biases, scales and ``undecayed``."""
        return {n for n, p in self.named_parameters() if p.ndim < 2 or any(part in n for part in self.undecayed)}

    def block_names(self, stage: int) -> list[str]:
        """Names of the blocks of a stage, in order: the children of its module."""
        module = self.feature_info.module_name()[stage]
        return [f"{module}.{name}" for name, _ in self.get_submodule(module).named_children()]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names by depth, in the form of timm: the stem, then blocks, or whole stages.

        What stands before a stage goes with its first block, what follows the last block with that one. The head
        matches no pattern.
        """
        blocks: list[tuple[str, tuple[int, ...]]] = []
        for i, module in enumerate(self.feature_info.module_name()):
            names = [] if coarse else self.block_names(i)
            blocks += [(_starts(name), (i, j)) for j, name in enumerate(names)]
            blocks += [(_starts(name), (i, 0)) for name in (self.before[i] if i else ())]
            blocks.append((_starts(module), (i, max(len(names) - 1, 0))))
        return {"stem": "|".join(map(_starts, self.before[0])), "blocks": blocks}

    def freeze(self, *names: str) -> None:
        """Stop the training of modules or parameters: no gradients, and evaluation mode for good, batch norms included.

        Args:
            *names: names of modules or parameters, as in ``named_modules``.
        """
        modules = dict(self.named_modules())
        for name in names:
            part = modules[name] if name in modules else self.get_parameter(name)
            part.requires_grad_(False)
        self._frozen += names
        self.train(self.training)

    def freeze_backbone(self) -> None:
        """Freeze everything but the classifier, for a linear probe."""
        around = f"{self.classifier_name}."
        modules = [name for name, _ in self.named_modules() if name and not around.startswith(f"{name}.")]
        self.freeze(*modules, *(name for name, _ in self.named_parameters() if not name.startswith(around)))

    def freeze_norms(self) -> None:
        """Freeze batch norms: small batches have poor statistics."""
        self.freeze(*(name for name, module in self.named_modules() if isinstance(module, _BatchNorm)))

    def stage_names(self, n: int) -> list[str]:
        """Names of everything up to the end of stage ``n``, counted from 1: for ``freeze``."""
        names = self.feature_info.module_name()
        if not 0 <= n <= len(names):
            raise ConfigError(f"the model has {len(names)} stages, {n} are to be frozen; use 0 to {len(names)}")
        return [part for i in range(n) for part in (*self.before[i], names[i])]

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for frozen parts."""
        super().train(mode)
        modules = dict(self.named_modules()) if self._frozen else {}
        for name in self._frozen:
            if name in modules:
                modules[name].eval()
        return self


@fx.wrap
def check_images(x: Tensor, in_chans: int, min_size: int) -> None:
    """Raise ``ValueError`` unless ``x`` is ``(B, in_chans, H, W)`` with sides of at least ``min_size`` pixels."""
    if x.ndim != 4:
        raise ValueError(f"x should be (B, C, H, W), got {tuple(x.shape)}; add an axis with x.unsqueeze(0)")
    if x.shape[1] != in_chans:
        raise ValueError(
            f"x has {x.shape[1]} channels, the model was built for in_chans = {in_chans}; "
            f"convert the images, or build it with in_chans={x.shape[1]}"
        )
    if min(x.shape[2:]) < min_size:
        raise ValueError(
            f"images of {x.shape[2]} x {x.shape[3]} pixels are too small for the strides of this model; "
            f"resize them to at least {min_size} x {min_size}"
        )


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


def _starts(name: str) -> str:
    return rf"^{re.escape(name)}(?:\.|$)"


def _of_channels(values: Sequence[float], n: int) -> tuple[float, ...]:
    """Values of three channels for ``n`` of them: their mean for one, else in turn."""
    return (sum(values) / len(values),) if n == 1 else tuple(values[i % len(values)] for i in range(n))


def check_stages(**options: Sequence[int]) -> None:
    """Raise ``ConfigError`` unless every option has one value for each stage, and all are at least 1."""
    lengths = {name: len(values) for name, values in options.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        listed = ", ".join(f"{n} {name}" for name, n in lengths.items())
        raise ConfigError(f"{listed} for the stages; give one of each per stage")
    for name, values in options.items():
        check_at_least(1, **{f"{name}[{i}]": value for i, value in enumerate(values)})


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
