"""ViM2: vision MambaMixer, selection across tokens in four scan orders and across channels (Behrouz et al., 2024)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers import Mixer, SelectiveChannel
from seqmix.models.averaging import WeightedAveraging
from seqmix.models.block import DropPath
from seqmix.models.recompute import recomputed
from seqmix.vision._registry import register_model
from seqmix.vision.adapters import Raster
from seqmix.vision.grid_mixer import Grid, GridMixer, GridMixerFactory
from seqmix.vision.image_model import GlobalPool, ImageModel, ImageOptions, check_stages, linear_classifier, pool_map
from seqmix.vision.metaformer import drop_path_rates, init_weights
from seqmix.vision.ss2d import SS2D
from seqmix.vision.stage import Stage


class ChannelMixerFactory(Protocol):
    """Factory of channel mixers of a given inner width: ``SelectiveChannel``, or a ``functools.partial`` of it."""

    def __call__(self, d_model: int, max_len: int | None = None, *, width: int) -> Mixer:
        """Make the mixer; ``width`` is that of table 8."""
        ...


class ViM2(ImageModel):
    """Vision MambaMixer: blocks of selective token mixers and a selective channel mixer, on sums of earlier outputs.

    The input of each token and channel mixer is a learned weighted sum of what the mixers of its stage gave before
    (sec. 3.2). Without channel mixers it is a plain stack, the first VMamba.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost: O(H W D (D + d_state)).

    Args:
        dims: width D of each stage.
        depths: token mixers of each stage, a multiple of ``tokens_per_block``.
        channel_widths: inner width of the channel mixers of each stage. None: no channel mixers and no sums.
        tokens_per_block: token mixers before each channel mixer, and between two sums.
        token_mixer: factory of the token mixers.
        channel_mixer: factory of the channel mixers, for example ``partial(SelectiveChannel, reading="lifted")``.
        residual: ``y = x + mixer(norm(x))`` within each mixer; without, ``y = mixer(norm(x))``, as printed.
        init_avg: start of the sums, ``residual`` for a plain stack, ``mean`` for the mean of all earlier outputs.
        img_size: height and width in pixels, for channel mixers that store something per token; others take any.
        drop_path_rate: probability to skip a mixer for a sample in training, of the last mixer.
        drop_rate: dropout probability before the last linear layer.

    Raises:
        ConfigError: if a stage has no whole number of blocks.

    Source: Behrouz et al., 2024, arXiv:2403.19888, sec. 4. Differs from the original code in: unknown, it was not
    released. Text and table 8 leave open how token and channel mixers are grouped, residuals, initial weights of the
    sums and what a channel scan sees; the defaults are our choice, and the tiny model is larger than the paper says.
    """

    undecayed = ("A_log", "A_b_log", "Ds", "dt_projs_bias")

    def __init__(
        self,
        *,
        dims: Sequence[int],
        depths: Sequence[int],
        channel_widths: Sequence[int] | None,
        tokens_per_block: int = 2,
        token_mixer: GridMixerFactory = SS2D,
        channel_mixer: ChannelMixerFactory = SelectiveChannel,
        residual: bool = True,
        init_avg: Literal["residual", "mean"] = "residual",
        img_size: int | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ):
        widths = {} if channel_widths is None else {"channel_widths": channel_widths}
        check_stages(dims=dims, depths=depths, **widths)
        check_at_least(1, tokens_per_block=tokens_per_block)
        super().__init__(
            stages=[(D, 4 * 2**i, f"stages.{i}") for i, D in enumerate(dims)],
            before=[["stem"], *([f"downsampling.{i}"] for i in range(len(dims) - 1))],
            head=("norm", "head"),
            classifier="head",
            head_hidden_size=dims[-1],
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            img_size=img_size,
        )
        blocks = [_blocks(i, depth, tokens_per_block) for i, depth in enumerate(depths)]
        mixers_per_block = tokens_per_block + (channel_widths is not None)
        rates = iter(drop_path_rates(drop_path_rate, sum(blocks) * mixers_per_block))
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(in_chans, dims[0], 4, stride=4), "norm": nn.LayerNorm(dims[0])})
        self.downsampling = nn.ModuleList(map(_Merging, dims, dims[1:]))
        self.stages = nn.ModuleList()
        for i, D in enumerate(dims):
            grid = None if img_size is None else (img_size // (4 * 2**i),) * 2

            def mixer(make: GridMixerFactory, D: int = D, grid: Grid | None = grid) -> nn.Module:
                return _Mixing(D, make(D, grid), drop_path=next(rates), residual=residual)

            stage = nn.ModuleList()
            for n in range(1, blocks[i] + 1):
                tokens = [mixer(token_mixer) for _ in range(tokens_per_block)]
                if channel_widths is None:
                    stage.append(nn.Sequential(*tokens))
                    continue
                channels = partial(Raster, mixer=partial(channel_mixer, width=channel_widths[i]))
                stage.append(_Block(n, tokens, mixer(channels), init_avg))
            self.stages.append(_Stage(stage) if channel_widths is not None else Stage(*stage, channels_last=True))
        self.norm = nn.LayerNorm(dims[-1])
        self.dropout = nn.Dropout(drop_rate)
        self.head = linear_classifier(dims[-1], num_classes)
        for name, module in self.named_modules():
            # the projections to dt keep their own initialization
            if name.endswith(("in_proj", "out_proj", "reduction")):
                init_weights(module)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the map of each stage."""
        x = self.stem["norm"](self.stem["conv"](x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.downsampling[i - 1](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
            yield x

    def block_names(self, stage: int) -> list[str]:
        """Blocks of token and channel mixers, or of token mixers where there are no channel mixers."""
        names = super().block_names(stage)
        module = self.get_submodule(names[0])
        return [f"{names[0]}.{j}" for j in range(len(module))] if isinstance(module, nn.ModuleList) else names

    def pre_logits(self, x: Tensor) -> Tensor:
        """Norm over channels, then pool."""
        y = self.norm(x.permute(0, 2, 3, 1))
        return self.dropout(pool_map(y.permute(0, 3, 1, 2), self.global_pool))


class _Stage(nn.Module):
    """Blocks that all see the outputs of earlier mixers."""

    def __init__(self, blocks: nn.ModuleList):
        super().__init__()
        self.blocks, self.grad_checkpointing = blocks, False

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        tokens, channels = [x], [x]
        for block in self.blocks:
            # copies: the lists grow before the backward pass
            earlier = tuple(tokens), tuple(channels)
            token, channel = recomputed(block, *earlier, enable=self.grad_checkpointing)
            tokens.append(token)
            channels.append(channel)
        return channels[-1].permute(0, 3, 1, 2)


class _Block(nn.Module):
    """Token mixers on one sum of earlier outputs, a channel mixer on another that has theirs too."""

    def __init__(self, n: int, tokens: Sequence[nn.Module], channel: nn.Module, init_avg: Literal["residual", "mean"]):
        super().__init__()
        self.token_average = WeightedAveraging(n, n, last="channel", init=init_avg)
        self.tokens = nn.Sequential(*tokens)
        self.channel_average = WeightedAveraging(n + 1, n, last="token", init=init_avg)
        self.channel = channel

    def forward(self, tokens: Sequence[Tensor], channels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        token = self.tokens(self.token_average(tokens, channels))
        return token, self.channel(self.channel_average([*tokens, token], channels))


class _Mixing(nn.Module):
    def __init__(self, d_model: int, mixer: GridMixer, *, drop_path: float, residual: bool):
        super().__init__()
        self.norm, self.mixer, self.residual = nn.LayerNorm(d_model), mixer, residual
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop_path(self.mixer(self.norm(x)))
        return x + y if self.residual else y


class _Merging(nn.Module):
    """Two by two cells become one; a last row or column without partner is joined to zeros."""

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * d_in)
        self.reduction = nn.Linear(4 * d_in, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
        return self.reduction(self.norm(rearrange(x, "b (h p) (w q) c -> b h w (q p c)", p=2, q=2)))


def _blocks(stage: int, depth: int, tokens_per_block: int) -> int:
    if depth % tokens_per_block:
        raise ConfigError(
            f"depths[{stage}] = {depth} is not a multiple of tokens_per_block = {tokens_per_block}; change one of them"
        )
    return depth // tokens_per_block


class ViM2Options(ImageOptions, total=False):
    """Options of the ViM2 models.

    Args:
        token_mixer: factory of the token mixers.
        channel_mixer: factory of the channel mixers.
        residual: a residual within each mixer.
        init_avg: start of the sums of earlier outputs, ``residual`` or ``mean``.
        img_size: height and width in pixels, for channel mixers that store something per token.
    """

    token_mixer: GridMixerFactory
    channel_mixer: ChannelMixerFactory
    residual: bool
    init_avg: Literal["residual", "mean"]
    img_size: int


_PAPER = "arXiv:2403.19888"
_CFG: dict[str, Any] = {"first_conv": "stem.conv"}
_SMALL, _BASE = (96, 192, 384, 768), (128, 256, 512, 1024)
# inner widths of the channel mixers as printed in table 8: the last stage has its own width, the others twice theirs
_SMALL_WIDTHS, _BASE_WIDTHS = (192, 384, 768, 768), (256, 512, 1024, 1024)


@register_model(paper=_PAPER, parameters=24_011_422, default_cfg=_CFG)
def vim2_tiny(**options: Unpack[ViM2Options]) -> ViM2:
    """ViM2-T, 20 M in the paper; no reading of its table gives that."""
    return ViM2(dims=_SMALL, depths=(2, 2, 6, 2), channel_widths=_SMALL_WIDTHS, **options)


@register_model(paper=_PAPER, parameters=43_674_604, default_cfg=_CFG)
def vim2_small(**options: Unpack[ViM2Options]) -> ViM2:
    """ViM2-S, 43 M in the paper."""
    return ViM2(dims=_SMALL, depths=(2, 2, 18, 2), channel_widths=_SMALL_WIDTHS, **options)


@register_model(paper=_PAPER, parameters=75_582_604, default_cfg=_CFG)
def vim2_base(**options: Unpack[ViM2Options]) -> ViM2:
    """ViM2-B, 74 M in the paper."""
    return ViM2(dims=_BASE, depths=(2, 2, 18, 2), channel_widths=_BASE_WIDTHS, **options)
