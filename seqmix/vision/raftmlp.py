"""RaftMLP: levels of vertical, horizontal and channel MLPs over rafts of channels (Tatsunami and Taki, 2021).

The names of parameters are those of okojoalg/raft-mlp.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.mixers import Raft
from seqmix.models.block import DropPath
from seqmix.models.recompute import recomputed
from seqmix.vision._boxes import mix_boxes
from seqmix.vision._registry import register_model
from seqmix.vision.grid_mixer import Grid, GridMixer
from seqmix.vision.image_model import GlobalPool, ImageModel, ImageOptions, check_stages, linear_classifier, pool_map
from seqmix.vision.mixers2d import Pointwise, require_grid

Mixing = Literal["raft", "full"]

# channels last, g rafts of j channels: positions of a column or row, or all of them, beside the channels of a raft
_VERTICAL = ("b h w (g j)", "b w j (g h)")
_HORIZONTAL = ("b h w (g j)", "b h j (g w)")
_FULL = ("b h w (g j)", "b j (g h w)")


class RaftMLP(ImageModel):
    """RaftMLP: MLPs over rows and columns, in rafts of channels, and over channels.

    Each level embeds patches, also of several sizes at once, and mixes columns, rows and channels (sec. 3). An image of
    another size than ``img_size`` is stretched to the grid of each level before the token MLPs, and back after them.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost of a block on an h x w grid: O(h w C (r h + r w + C)).

    Args:
        dims: channels of each level.
        depths: blocks of each level.
        patch_sizes: cells of the level before, along each axis, that a cell of each level covers.
        n_rafts: rafts of channels r, one number for all levels.
        kernels: sizes of the patches that are embedded together at each level, multiples of its patch size and the
            smallest of them first; None for plain patches.
        mixing: ``raft``, rows and columns apart, or ``full``, all positions in one MLP, as MLP-Mixer.
        img_size: height and width the token MLPs are made for, in pixels.
        token_expand: inner width of the token MLPs over their width.
        channel_expand: inner width of the channel MLPs over theirs.
        first_map: what the pyramid has at stride 4: the first ``level``, or its ``embedding``, as the published
            detectors.
        drop_path_rate: probability to skip a branch for a sample in training, the same in all blocks.
        drop_rate: dropout probability before the last linear layer.

    Raises:
        ConfigError: if the rafts do not divide the channels, the kernels do not fit the patches, or ``mixing`` or
            ``first_map`` is not known.

    Source: Tatsunami and Taki, 2021, arXiv:2108.04384; weights of okojoalg/raft-mlp load under their own keys. Differs
    from the original code in: no heads on the earlier levels, which no published configuration has.
    """

    # token MLPs of columns and rows
    sized = (".1.fn.", ".3.fn.")

    def __init__(
        self,
        *,
        dims: Sequence[int],
        depths: Sequence[int] = (2, 2, 6, 2),
        patch_sizes: Sequence[int] = (4, 2, 2, 2),
        n_rafts: int = 2,
        kernels: Sequence[Sequence[int]] | None = ((4, 8), (2, 4), (2, 4), (2,)),
        mixing: Mixing = "raft",
        img_size: int = 224,
        token_expand: int = 2,
        channel_expand: int = 4,
        first_map: Literal["level", "embedding"] = "level",
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ):
        check_stages(dims=dims, depths=depths, patch_sizes=patch_sizes)
        check_at_least(1, n_rafts=n_rafts, token_expand=token_expand, channel_expand=channel_expand)
        check_choice("mixing", mixing, ("raft", "full"))
        check_choice("first_map", first_map, ("level", "embedding"))
        strides = [math.prod(patch_sizes[: i + 1]) for i in range(len(dims))]
        names = [f"levels.{i}" for i in range(len(dims))]
        super().__init__(
            stages=list(zip(dims, strides, names, strict=True)),
            before=[[f"{name}.fn.0", f"{name}.fn.1"] for name in names],
            head=("heads", "classifier"),
            classifier="classifier",
            head_hidden_size=dims[-1],
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            img_size=img_size,
        )
        self.first_map = first_map
        levels, side, before = [], img_size, in_chans
        for i, (C, depth, patch) in enumerate(zip(dims, depths, patch_sizes, strict=True)):
            side = math.ceil(side / patch)
            if C % n_rafts:
                raise ConfigError(f"dims[{i}] = {C} is not a multiple of n_rafts = {n_rafts}; change one of them")
            blocks = [
                _Block(
                    C,
                    side,
                    n_rafts=n_rafts,
                    mixing=mixing,
                    token_expand=token_expand,
                    channel_expand=channel_expand,
                    drop_path=drop_path_rate,
                )
                for _ in range(depth)
            ]
            levels.append(_Level(before, C, patch, kernels[i] if kernels is not None else None, blocks))
            before = C
        self.levels = nn.ModuleList(levels)
        self.heads = nn.ModuleList([nn.ModuleDict({"1": nn.LayerNorm(dims[-1])})])
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = linear_classifier(dims[-1], num_classes)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the map of each level, the first one before its blocks where ``first_map`` says so."""
        for i, level in enumerate(self.levels):
            assert isinstance(level, _Level)
            x = level.embed(x)
            if i == 0 and self.first_map == "embedding":
                yield x
            x = level(x)
            if i > 0 or self.first_map == "level":
                yield x

    def block_names(self, stage: int) -> list[str]:
        """Blocks, which stand behind the patches in the list of their level."""
        level = f"levels.{stage}.fn"
        return [f"{level}.{k}" for k in range(2, len(self.get_submodule(level)))]  # pyright: ignore[reportArgumentType]

    def pre_logits(self, x: Tensor) -> Tensor:
        """Norm over channels, then pool."""
        y = self.heads.get_submodule("0.1")(x.permute(0, 2, 3, 1))
        return self.dropout(pool_map(y.permute(0, 3, 1, 2), self.global_pool))


class Raft2d(GridMixer):
    """Raft-token-mixing of columns, then of rows, without the norms and residuals that RaftMLP has around each.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``; other sizes than ``grid`` are stretched to it, and back.
    Cost: O(H W D r (H + W) expand) at the size of ``grid``.

    Args:
        d_model: width D.
        grid: height and width the MLPs are made for, in tokens.
        n_rafts: number of rafts r, 2 in the paper; 1 mixes each channel alone.
        expand: inner width of the MLPs over theirs.

    Raises:
        ConfigError: if ``grid`` is missing, or ``d_model`` is not a multiple of ``n_rafts``.

    Source: Tatsunami and Taki, 2021, arXiv:2108.04384, sec. 3.2. Differs from the original code in: norm and residual
    are those of the block; masks.
    """

    def __init__(self, d_model: int, grid: Grid | None = None, *, n_rafts: int = 2, expand: int = 2):
        super().__init__()
        check_at_least(1, n_rafts=n_rafts, expand=expand)
        self.height, self.width = require_grid(self, grid)
        self.vertical = Raft(d_model, self.height, n_rafts=n_rafts, expand=expand)
        self.horizontal = Raft(d_model, self.width, n_rafts=n_rafts, expand=expand)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return mix_boxes(lambda x, _: self._mix(x), x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        B, H, W, _ = x.shape
        x = _resize_last(x, self.height, self.width)
        x = self.vertical(rearrange(x, "b h w d -> (b w) h d"))
        x = self.horizontal(rearrange(x, "(b w) h d -> (b h) w d", b=B))
        return _resize_last(x.unflatten(0, (B, -1)), H, W)


class _Level(nn.Module):
    """Patches, then blocks: ``embed`` and ``forward``, kept in one list because the published keys count through it."""

    def __init__(self, d_in: int, d_out: int, patch: int, kernels: Sequence[int] | None, blocks: Sequence[nn.Module]):
        super().__init__()
        self.patch = patch
        # the second place is the linear layer of plain patches
        multi_scale = kernels is not None
        first = _MultiScalePatches(d_in, d_out, patch, kernels) if multi_scale else nn.Identity()
        second = nn.Identity() if multi_scale else _PlainPatches(patch**2 * d_in, d_out)
        self.fn = nn.ModuleList([first, second, *blocks])
        self.grad_checkpointing = False

    def embed(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to a map of patches ``(B, d_out, h, w)``."""
        H, W = (math.ceil(n / self.patch) * self.patch for n in x.shape[2:])
        return self.fn[1](self.fn[0](_resize(x, H, W))).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map of patches."""
        x = x.permute(0, 2, 3, 1)
        for block in self.fn[2:]:
            x = recomputed(block, x, enable=self.grad_checkpointing)
        return x.permute(0, 3, 1, 2)


class _MultiScalePatches(nn.Module):
    """Patches of several sizes around the same centers, and one linear layer on all of them together."""

    def __init__(self, d_in: int, d_out: int, patch: int, kernels: Sequence[int]):
        super().__init__()
        if kernels[0] != patch or any(k % patch or (k - patch) % 2 for k in kernels):
            raise ConfigError(
                f"kernels = {tuple(kernels)} do not fit patches of {patch}; begin with {patch}, and go on with "
                "multiples that leave the same margin on both sides"
            )
        self.d_in, self.patch, self.kernels = d_in, patch, tuple(kernels)
        self.fc = nn.Linear(d_in * sum(k**2 for k in kernels), d_out)

    def forward(self, x: Tensor) -> Tensor:
        # the smaller patches lie inside the largest one, so that one convolution does for all
        K = max(self.kernels)
        parts = self.fc.weight.split([self.d_in * k**2 for k in self.kernels], 1)
        weight = self.fc.weight.new_zeros(len(self.fc.weight), self.d_in, K, K)
        for k, part in zip(self.kernels, parts, strict=True):
            weight = weight + F.pad(part.unflatten(1, (self.d_in, k, k)), [(K - k) // 2] * 4)
        y = F.conv2d(x, weight, self.fc.bias, stride=self.patch, padding=(K - self.patch) // 2)
        return y.permute(0, 2, 3, 1)


class _PlainPatches(nn.Linear):
    """Linear layer on patches, in the order row, column, channel."""

    def forward(self, input: Tensor) -> Tensor:
        p = math.isqrt(self.in_features // input.shape[1])
        return super().forward(rearrange(input, "b c (h p) (w q) -> b h w (p q c)", p=p, q=p))


class _Block(nn.ModuleDict):
    """Token mixing on the grid the weights are made for, ``side`` cells square, then a channel MLP."""

    def __init__(
        self,
        d_model: int,
        side: int,
        *,
        n_rafts: int,
        mixing: Mixing,
        token_expand: int,
        channel_expand: int,
        drop_path: float,
    ):
        axes = [(side, _VERTICAL), (side, _HORIZONTAL)] if mixing == "raft" else [(side**2, _FULL)]
        n_rafts = n_rafts if mixing == "raft" else 1
        tokens = [
            _TokenMLP(d_model, length, patterns, n_rafts=n_rafts, expand=token_expand, drop_path=drop_path)
            for length, patterns in axes
        ]
        # odd places: the published keys count the rearrangements between them
        modules = [*tokens, _ChannelMLP(d_model, expand=channel_expand, drop_path=drop_path)]
        super().__init__({str(2 * i + 1): module for i, module in enumerate(modules)})
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        *tokens, channels = self.values()
        x = _resize_last(x, self.side, self.side)
        for mixer in tokens:
            x = mixer(x)
        return channels(_resize_last(x, H, W))


class _TokenMLP(nn.Module):
    """Norm over channels, then an MLP over the positions of one channel of each raft, and the residual.

    Scale and shift of the norm are stored in the order channel within the raft, raft, as in the original.
    """

    def __init__(
        self,
        d_model: int,
        length: int,
        patterns: tuple[str, str],
        *,
        n_rafts: int,
        expand: int,
        drop_path: float,
    ):
        super().__init__()
        self.patterns, self.n_rafts = patterns, n_rafts
        self.norm = nn.ModuleDict({"1": nn.LayerNorm(d_model)})
        self.fn = _mlp(n_rafts * length, expand)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, C = x.shape
        norm, (last, tokens) = self.norm["1"], self.patterns
        assert isinstance(norm, nn.LayerNorm)
        scale, shift = (p.unflatten(0, (-1, self.n_rafts)).T.flatten() for p in (norm.weight, norm.bias))
        u = F.layer_norm(x, (C,), scale, shift, norm.eps)
        u = self.fn(rearrange(u, f"{last} -> {tokens}", g=self.n_rafts))
        return x + self.drop(rearrange(u, f"{tokens} -> {last}", g=self.n_rafts, h=H, w=W))


class _ChannelMLP(nn.Module):
    def __init__(self, d_model: int, *, expand: int, drop_path: float):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.fn = _mlp(d_model, expand)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.fn(self.norm(x)))


def _mlp(width: int, expand: int) -> nn.Sequential:
    return nn.Sequential(Pointwise(width, expand * width), nn.GELU(), nn.Identity(), Pointwise(expand * width, width))


def _resize(x: Tensor, H: int, W: int) -> Tensor:
    if x.shape[2:] == (H, W):
        return x
    return F.interpolate(x, (H, W), mode="bicubic", align_corners=False)


def _resize_last(x: Tensor, H: int, W: int) -> Tensor:
    if x.shape[1:3] == (H, W):
        return x
    return _resize(x.permute(0, 3, 1, 2), H, W).permute(0, 2, 3, 1)


class RaftMLPOptions(ImageOptions, total=False):
    """Options of the RaftMLP models.

    Args:
        img_size: height and width the token MLPs are made for, in pixels.
        first_map: what the pyramid has at stride 4, the ``level`` or its ``embedding``.
    """

    img_size: int
    first_map: Literal["level", "embedding"]


_CFG: dict[str, Any] = {"interpolation": "bilinear", "crop_pct": 224 / 256}


@register_model(paper="arXiv:2108.04384", parameters=9_868_768, default_cfg=_CFG)
def raftmlp_s(**options: Unpack[RaftMLPOptions]) -> RaftMLP:
    """RaftMLP-S."""
    return RaftMLP(dims=(64, 128, 256, 512), **options)


@register_model(paper="arXiv:2108.04384", parameters=21_413_632, default_cfg=_CFG)
def raftmlp_m(**options: Unpack[RaftMLPOptions]) -> RaftMLP:
    """RaftMLP-M."""
    return RaftMLP(dims=(96, 192, 384, 768), **options)


@register_model(paper="arXiv:2108.04384", parameters=36_184_672, default_cfg=_CFG)
def raftmlp_l(**options: Unpack[RaftMLPOptions]) -> RaftMLP:
    """RaftMLP-L, whose second level is narrower than a doubling would make it."""
    return RaftMLP(dims=(128, 192, 512, 1024), **options)
