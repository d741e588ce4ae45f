"""Feature pyramids: the maps of an image model, for detection and segmentation."""

from collections.abc import Sequence

from torch import Tensor, nn

from seqmix.vision.image_model import FeatureInfo, ImageModel, stage_indices


class FeaturePyramid(nn.Module):
    """An image model without its head and without the stages after the last map: a list of maps.

    Shapes: ``(B, in_chans, H, W) -> [(B, C, H / s, W / s), ...]``, C and s in ``feature_info``. Cost: that of the
    stages up to the last one asked for.

    Args:
        model: the image model; its head and the stages that no map needs are taken off.
        out_indices: stages to return, negative from the end; an integer n for the last n. Default: all.

    Raises:
        ConfigError: if there is no such stage.
    """

    def __init__(self, model: ImageModel, *, out_indices: int | Sequence[int] | None = None):
        super().__init__()
        model.out_indices = stage_indices(out_indices, len(model.feature_info))
        stages = model.feature_info.module_name()
        later = range(max(model.out_indices) + 1, len(stages))
        names = [*model.head_names, *(name for i in later for name in (*model.before[i], stages[i]))]
        names += [norm for i, norm in model.map_norms.items() if i not in model.out_indices]
        for name in names:
            _take_off(model, name)
        model.absent += tuple(names)
        self.model = model
        self.feature_info = FeatureInfo(model.feature_info[i] for i in model.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of the chosen stages of ``x: (B, in_chans, H, W)``."""
        return self.model.features(x)


def _take_off(model: nn.Module, name: str) -> None:
    """Remove a parameter, or put an identity in the place of a module."""
    parent, _, leaf = name.rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, leaf, nn.Identity() if leaf in dict(owner.named_children()) else None)
