"""Published checkpoints of image models: files and hub ids, original and timm's names, loaded strictly."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from seqmix.errors import DataError
from seqmix.hub import from_hub
from seqmix.memory import ran_out
from seqmix.vision.image_model import ImageModel

# where training scripts put the tensors inside a checkpoint, averaged ones first
_INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model")
# prefixes that wrappers add: DataParallel, torch.compile, Lightning modules and FeaturePyramid, detectors
_WRAPPED = re.compile(r"(?:(?:module|model|backbone)\.)+")
_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors")


def load_weights(model: ImageModel, source: str | Path, *, fresh_classifier: bool = False) -> set[str]:
    """Load a checkpoint into ``model``, strictly: a published one, one of `seqmix fit`, a saved state dict.

    The names may be those of the original repository or timm's, and may begin with ``model.``, ``backbone.``,
    ``module.`` or ``_orig_mod.``, which a Lightning module, a detector, ``DataParallel`` and ``torch.compile`` add. The
    first convolution is adapted to ``in_chans``: one channel takes the sum of the filters, more take them in turn,
    scaled to keep the sum. What ``model`` has no head for is left in the file.

    Args:
        model: built by ``create_model``.
        source: a file (``.pth``, ``.ckpt``, ``.safetensors``) or a hub id: ``timm/caformer_s18.sail_in1k``, or with the
            name of a file, ``hf-hub:owner/repository/file.pth``.
        fresh_classifier: keep the classifier of ``model`` where the file has none, or one for another number of
            classes.

    Returns:
        Names of the parameters that kept their initial values: of such a classifier, of norms that no file has.

    Raises:
        DataError: if the file is missing, cut short, or of another model.
    """
    path = _find(str(source))
    state = _rename(_unwrap(_read(path)), model.timm_keys)
    own = model.state_dict()
    if "first_conv" in model.default_cfg:
        _adapt_channels(state, own, f"{model.default_cfg['first_conv']}.weight")
    _leave_out(state, model)
    fresh = _fresh_classifier(state, own, model) if fresh_classifier else set()
    for key in state.keys() & own.keys():
        # dense layers are 1 x 1 convolutions in one layout and matrices in the other
        if state[key].shape != own[key].shape and _dense(state[key].shape) == _dense(own[key].shape):
            state[key] = state[key].reshape(own[key].shape)
    fresh |= {key for key in own.keys() - state.keys() if key.startswith(model.unpublished)}
    state.update({key: own[key] for key in fresh})
    _compare(state, own, model, path)
    model.load_state_dict(state)
    return fresh


def _find(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    match = re.fullmatch(r"(hf-hub:)?([\w.-]+/[\w.-]+)(?:/(.+))?", source)
    # a path has slashes too: only a name of two parts is taken for a repository without the prefix
    if match is None or (not match[1] and (match[3] or path.suffix in _SUFFIXES)):
        raise DataError(
            f"no weights at {source!r}; give a file that exists, or a hub id such as 'timm/caformer_s18.sail_in1k'"
        )
    # brings an http client
    from huggingface_hub import hf_hub_download

    file = match[3] or "model.safetensors"
    remedy = f"download its {file} where there is a network, and pass the path: weights={Path(file).name!r}"
    with from_hub(f"weights {source!r} cannot be fetched from the hub", remedy):
        return Path(hf_hub_download(match[2], file))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # options of the training script, plain values, lie beside the tensors of many releases
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    # neither reader has an error of its own: a file cut short gives any, by where it is cut
    except Exception as error:
        if ran_out(error):
            raise
        raise DataError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as weights ({type(error).__name__}); "
            "it may be cut short, fetch it again"
        ) from error
    for key in _INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise DataError(f"{path} holds no state dict of tensors; save it with torch.save(model.state_dict(), path)")
    return {str(key): tensor for key, tensor in content.items()}


def _unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that wrappers add to names; a tensor without the prefix is not part of a wrapped model."""
    names = {key: key.replace("_orig_mod.", "") for key in state}
    wrapped = {key: match.end() for key, name in names.items() if (match := _WRAPPED.match(name))}
    return {names[key][wrapped.get(key, 0) :]: tensor for key, tensor in state.items() if key in wrapped or not wrapped}


def _rename(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Give timm's names back their original form; others pass as they are."""
    if "stem.conv.weight" not in state:
        return dict(state)
    return {_original_name(key, rules): tensor for key, tensor in state.items()}


def _original_name(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def _adapt_channels(state: dict[str, Tensor], own: Mapping[str, Tensor], key: str) -> None:
    if key not in state or key not in own or state[key].ndim != 4:
        return
    given, n = state[key].shape[1], own[key].shape[1]
    if n == 1:
        state[key] = state[key].sum(1, keepdim=True)
    elif given != n and given in (1, 3):
        state[key] = state[key][:, torch.arange(n) % given] * (given / n)


def _leave_out(state: dict[str, Tensor], model: ImageModel) -> None:
    """Drop tensors of parts that ``model`` lacks."""
    absent = (*model.absent, *([] if model.num_classes else [model.classifier_name]))
    for key in [key for key in state if any(key == name or key.startswith(f"{name}.") for name in absent)]:
        del state[key]


def _fresh_classifier(state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: ImageModel) -> set[str]:
    """Names of the classifier, if the file has none or one for other classes."""
    names = {key for key in own if key.startswith(f"{model.classifier_name}.")}
    other = all(key not in state or state[key].shape[0] != own[key].shape[0] for key in names)
    return names if other else set()


def _dense(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)


def _compare(state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: ImageModel, path: Path) -> None:
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    resized = [key for key in own if key in state and state[key].shape != own[key].shape]
    shapes = [f"{key} {tuple(state[key].shape)}, here {tuple(own[key].shape)}" for key in resized]
    differences = {"missing in the file": missing, "not in the model": unknown, "of another shape": shapes}
    found = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in differences.items() if keys]
    if not found:
        return
    name = model.default_cfg.get("architecture", type(model).__name__)
    remedy = _remedy(state, own, model, {*missing, *unknown, *resized})
    raise DataError(f"{path} does not fit {name}, it differs in {'; '.join(found)}. Please {remedy}")


def _remedy(state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: ImageModel, differing: set[str]) -> str:
    classifier, first = f"{model.classifier_name}.", f"{model.default_cfg.get('first_conv')}.weight"
    of_classifier = {key for key in differing if key.startswith(classifier)}
    resized = (differing & state.keys() & own.keys()) - of_classifier
    of_size = {key for key in resized if any(part in key for part in model.sized)}
    advice = []
    if of_classifier & state.keys():
        advice.append(f"num_classes={state[classifier + 'weight'].shape[0]} for the classes of the file")
    elif of_classifier:
        advice.append("num_classes for a fresh classifier, or 0 for none: the file has none")
    if first in resized:
        advice.append(f"in_chans={state[first].shape[1]} for the channels of the file")
    if of_size:
        advice.append("the img_size that the file was trained for: it has parameters for each position")
    if not differing - of_classifier - of_size - (resized & {first}):
        return f"pass {', and '.join(advice)}"
    ours, theirs = differing - state.keys(), differing - own.keys()
    if _folded(ours, theirs):
        return "load it into create_model(...).reparameterize(): batch norms of the file are folded into convolutions"
    if _folded(theirs, ours):
        return "load the weights before reparameterize(), which has folded the batch norms of this model"
    return "use the file of this model, or create the model that it is of"


def _folded(norms: set[str], convolutions: set[str]) -> bool:
    """Whether one side has a batch norm where the other has the convolution that it becomes."""
    mean = "bn.running_mean"
    return any(key.removesuffix(mean) + "weight" in convolutions for key in norms if key.endswith(mean))


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
