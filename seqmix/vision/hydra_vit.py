"""Hydra-ViT: image patches in raster order through a stack of sequence mixers (Hwang et al., 2024)."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from seqmix.errors import check_at_least
from seqmix.mixers import Hydra, MixerFactory
from seqmix.models.block import DropPath
from seqmix.vision._registry import register_model
from seqmix.vision.adapters import Raster
from seqmix.vision.grid_mixer import Grid
from seqmix.vision.image_model import GlobalPool, ImageModel, ImageOptions, linear_classifier, pool_map
from seqmix.vision.metaformer import drop_path_rates, init_weights
from seqmix.vision.stage import Stage


class HydraViT(ImageModel):
    """Vision transformer with a sequence mixer in place of attention and MLP: ``x + mixer(norm(x))``, no positions.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost: that of ``n_layers`` mixers at length H W / patch_size^2.

    Args:
        d_model: width D of a patch.
        n_layers: number of mixers.
        patch_size: side of a patch, in pixels.
        mixer: factory of the sequence mixer of every layer.
        img_size: height and width in pixels, for mixers that store something per position; others take any.
        drop_path_rate: probability to skip a mixer for a sample in training, of the last layer; 0.5 in the paper.
        drop_rate: dropout probability before the last linear layer.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. D.2. Differs from the original code in: unknown, it was not
    released; norm (layer norm), pooling (mean, no class token) and the layer's options (its defaults) are our choice.
    With them the base model has 93.2 M parameters, 91 M in the paper.
    """

    undecayed = ("A_log", "A_b_log")

    def __init__(
        self,
        *,
        d_model: int = 768,
        n_layers: int = 24,
        patch_size: int = 16,
        mixer: MixerFactory = Hydra,
        img_size: int | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ):
        check_at_least(1, d_model=d_model, n_layers=n_layers, patch_size=patch_size)
        super().__init__(
            stages=[(d_model, patch_size, "layers")],
            before=[["patch_embed"]],
            head=("norm", "head"),
            classifier="head",
            head_hidden_size=d_model,
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            img_size=img_size,
        )
        grid = None if img_size is None else (img_size // patch_size, img_size // patch_size)
        self.patch_embed = nn.Conv2d(in_chans, d_model, patch_size, stride=patch_size)
        rates = drop_path_rates(drop_path_rate, n_layers)
        self.layers = Stage(*(_Layer(d_model, grid, mixer, rate) for rate in rates), channels_last=True)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(drop_rate)
        self.head = linear_classifier(d_model, num_classes)
        init_weights(self.patch_embed)
        for name, module in self.named_modules():
            # parameters of a mixer besides projections keep their own initialization
            if name.endswith(("in_proj", "out_proj")):
                init_weights(module)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the one map there is."""
        yield self.layers(self.patch_embed(x))

    def pre_logits(self, x: Tensor) -> Tensor:
        """Norm over channels, then pool."""
        y = self.norm(x.permute(0, 2, 3, 1))
        return self.dropout(pool_map(y.permute(0, 3, 1, 2), self.global_pool))


class _Layer(nn.Module):
    def __init__(self, d_model: int, grid: Grid | None, mixer: MixerFactory, drop_path: float):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.mixer = Raster(d_model, grid, mixer=mixer)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mixer(self.norm(x)))


class HydraViTOptions(ImageOptions, total=False):
    """Options of the Hydra-ViT models.

    Args:
        mixer: factory of the sequence mixer of every layer.
        img_size: height and width in pixels, for mixers that store something per position.
    """

    mixer: MixerFactory
    img_size: int


_CFG: dict[str, Any] = {"first_conv": "patch_embed", "pool_size": (14, 14)}


@register_model(paper="arXiv:2407.09941", parameters=93_203_368, default_cfg=_CFG)
def hydra_vit_base(**options: Unpack[HydraViTOptions]) -> HydraViT:
    """Hydra-ViT-B."""
    return HydraViT(**options)
