"""Image models by name: the name is the function's, as in timm."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import wraps
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from seqmix.errors import ConfigError
from seqmix.vision.image_model import DEFAULT_CFG, ImageModel, ImageOptions, stage_indices
from seqmix.vision.pyramid import FeaturePyramid
from seqmix.vision.weights import load_weights


@dataclass(frozen=True)
class ImageModelFacts:
    """Facts about a registered image model.

    Args:
        build: the function of its name.
        paper: source.
        parameters: published number of parameters, frozen ones included.
        default_cfg: size, normalization and crop the weights expect; ``first_conv``, ``hf_hub_id``.
    """

    build: Callable[..., ImageModel]
    paper: str
    parameters: int
    default_cfg: Mapping[str, Any]


_REGISTRY: dict[str, ImageModelFacts] = {}
F = TypeVar("F", bound=Callable[..., ImageModel])


def register_model(
    *,
    paper: str,
    parameters: int,
    default_cfg: Mapping[str, Any],
    variants: Mapping[str, tuple[int, Mapping[str, Any]]] | None = None,
) -> Callable[[F], F]:
    """Register a function under its own name.

    Args:
        paper: source.
        parameters: its number of parameters, frozen ones included.
        default_cfg: what differs from ``DEFAULT_CFG``.
        variants: the same network published again, at another size or with other classes: the name's ending, the
            number of parameters, and what differs in ``default_cfg``.
    """

    def enter(function: F) -> F:
        for ending, (count, changes) in {"": (parameters, {}), **(variants or {})}.items():
            name = "_".join(part for part in (function.__name__, ending) if part)
            cfg = {**DEFAULT_CFG, **default_cfg, **changes, "architecture": name}
            _REGISTRY[name] = ImageModelFacts(_configured(function, cfg), paper, count, cfg)
        return _REGISTRY[function.__name__].build  # pyright: ignore[reportReturnType]

    return enter


def list_models(filter: str = "*") -> list[str]:
    """Names of the registered image models that match, sorted: ``list_models("caformer*")``."""
    return sorted(name for name in _REGISTRY if fnmatchcase(name, filter))


def model_facts(name: str) -> ImageModelFacts:
    """Facts about a registered image model.

    Raises:
        ConfigError: if the name is not known; the message has the nearest names.
    """
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name.lower(), _REGISTRY, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ConfigError(f"no image model {name!r}; {hint}seqmix.vision.list_models() has all {len(_REGISTRY)}")
    return _REGISTRY[name]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    weights: str | None = None,
    **options: Any,
) -> ImageModel | FeaturePyramid:
    """Build an image model by its name, with published weights if asked.

    Args:
        name: one of ``list_models()``, for example ``caformer_s18``.
        num_classes: classes; 0 for none. Default: those of the published model, 1,000 or 21,841.
        in_chans: channels of the images; the first convolution of ``weights`` is adapted.
        drop_path_rate: probability to skip a branch in training, of the last block.
        features_only: return a ``FeaturePyramid`` in place of the model.
        out_indices: stages that ``features`` returns, negative from the end; an integer n for the last n.
        weights: a file (``.pth``, ``.ckpt``, ``.safetensors``) or a hub id (``timm/caformer_s18.sail_in1k``). With
            ``num_classes`` a file of other classes, or without a classifier, leaves a fresh one.
        **options: further options of the model's own function.

    Raises:
        ConfigError: if the name, an option or a stage is not known.
        DataError: if the weights cannot be read or are those of another model.
    """
    facts = model_facts(name)
    known = _options(facts.build)
    for option, value in options.items():
        if option in known and _is_factory(known[option]) and not callable(value):
            raise ConfigError(
                f"{option} = {value!r} is not a class; pass a class, or in a config name the class of the model and "
                f"write {option} into its init_args"
            )
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}? It" if near else "it"
            if option == "pretrained":
                hint = "weights='<file or hub id>' loads a checkpoint. It"
            raise ConfigError(f"{name} has no option {option!r}; {hint} takes {', '.join(known)}")
    if num_classes is not None:
        options["num_classes"] = num_classes
    model = facts.build(in_chans=in_chans, drop_path_rate=drop_path_rate, **options)
    model.out_indices = stage_indices(out_indices, len(model.feature_info))
    # a pyramid has no head, and needs none in the file
    built = FeaturePyramid(model, out_indices=out_indices) if features_only else model
    if weights is not None:
        load_weights(model, weights, fresh_classifier=num_classes is not None)
    return built


def _options(build: Callable[..., ImageModel]) -> dict[str, Any]:
    """Options of a model function with their types: its parameters, and the typed dict behind ``**options``."""
    types: dict[str, Any] = {}
    for parameter in inspect.signature(build).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            typed = get_args(parameter.annotation)
            types |= get_type_hints(typed[0] if typed else ImageOptions)
        else:
            types[parameter.name] = parameter.annotation
    return types


def _is_factory(annotation: Any) -> bool:
    return getattr(annotation, "_is_protocol", False) or get_origin(annotation) is Callable


def _configured(function: Callable[..., ImageModel], cfg: Mapping[str, Any]) -> Callable[..., ImageModel]:
    @wraps(function)
    def build(**options: Any) -> ImageModel:
        model = function(**{"num_classes": cfg["num_classes"], **options})
        model.pretrained_cfg = cfg
        if "img_size" not in options:
            # positions may be made for a smaller size than that of the published figures
            model.input_size = None
        return model

    return build
