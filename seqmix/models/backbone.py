"""A stack of blocks with any sequence mixer."""

from typing import Any, cast

from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers import Mixer, MixerFactory, zero_masked
from seqmix.models.block import NORMS, Block, ChannelMLP, DropPath, Norm
from seqmix.models.recompute import recomputed


class Backbone(nn.Module):
    """A stack of blocks with any mixers, then a norm.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: ``n_layers`` times that of a block.

    Args:
        d_model: width D.
        n_layers: number of blocks.
        max_len: longest sequence, for mixers that store an L x L matrix.
        mixer: factory of the sequence mixer of every block, called once for each.
        layers: sequence mixers of successive blocks, repeated from the start when there are more blocks; replaces
            ``mixer``.
        channel_mixer: factory of the channel mixer of every block. None: blocks with one residual.
        norm: ``layer``, ``rms``, or ``none`` for mixers with a norm of their own.
        channel_norm: norm of the channel mixers and of the result. Default: ``norm``.
        dropout: dropout probability on the output of each mixer.
        drop_path: probability of stochastic depth in the last block, growing linearly from 0 in the first.
        layer_scale: initial value of a learned scale on the output of each mixer. None: no scale.
        res_scale: initial value of a learned scale on each skip. None: no scale.
        post_norm: normalize after each residual sum instead of before each mixer.
        final_norm: normalize the result.
        checkpointing: recompute blocks in the backward pass: less memory, more time.

    Raises:
        ConfigError: if there is no block or no mixer, or ``norm`` is not known.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2. Differs from the original code in: one stage, no downsampling.
    """

    def __init__(
        self,
        d_model: int,
        n_layers: int,
        *,
        max_len: int | None = None,
        mixer: MixerFactory,
        layers: list[MixerFactory] | None = None,
        channel_mixer: MixerFactory | None = ChannelMLP,
        norm: Norm = "layer",
        channel_norm: Norm | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        res_scale: float | None = None,
        post_norm: bool = False,
        final_norm: bool = True,
        checkpointing: bool = False,
    ):
        super().__init__()
        if n_layers < 1:
            raise ConfigError(f"a backbone needs at least one block, got n_layers = {n_layers}; use n_layers=1")
        if layers == []:
            raise ConfigError("layers is an empty list; name at least one mixer, or leave it out to use mixer")
        # refuses a rate that is out of range also where the only block has none
        DropPath(drop_path)
        self.checkpointing = checkpointing
        makers = [mixer] if layers is None else layers
        self.blocks = nn.ModuleList(
            Block(
                d_model,
                max_len,
                mixer=makers[i % len(makers)],
                channel_mixer=channel_mixer,
                norm=norm,
                channel_norm=channel_norm,
                dropout=dropout,
                drop_path=drop_path * i / max(1, n_layers - 1),
                layer_scale=layer_scale,
                res_scale=res_scale,
                post_norm=post_norm,
            )
            for i in range(n_layers)
        )
        self.norm = NORMS[channel_norm or norm](d_model) if final_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: list[Any] | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, list[Any]]:
        """Transform ``x: (B, L, D)``.

        Args:
            x: input ``(B, L, D)``.
            mask: positions to keep ``(B, L)`` bool; the others come out as zero.
            cu_seqlens: bounds ``(S + 1,)`` of sequences packed into one row, B = 1, without a mask; nothing crosses
                them.
            state: initial states of the blocks. Default: those before the first position.
            return_state: return ``(x, state)`` with the states after the last position.

        Raises:
            TypeError: if a state is given or asked for and a mixer sees later positions.
        """
        x = zero_masked(x, mask)
        after = []
        for block, before in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            how = {"cu_seqlens": cu_seqlens, "state": before, "return_state": return_state or state is not None}
            x = recomputed(block, x, mask, enable=self.checkpointing, **how)
            if how["return_state"]:
                x, now = x
                after.append(now)
        x = zero_masked(self.norm(x), mask)
        return (x, after) if return_state else x

    def init_state(self, batch_size: int) -> list[Any]:
        """The states of the blocks before the first position."""
        return [cast(Block, block).init_state(batch_size) for block in self.blocks]

    def step(self, x: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Advance by one position: ``x: (B, D)``, states -> ``(B, D)``, states."""
        after = []
        for block, before in zip(self.blocks, state, strict=True):
            x, now = cast(Block, block).step(x, before)
            after.append(now)
        return self.norm(x), after

    @property
    def mixers(self) -> list[Mixer]:
        """The sequence mixer of each block."""
        return [cast(Block, block).mixers[0] for block in self.blocks]

    @property
    def mixer_names(self) -> list[str]:
        """The sequence mixers, each named once, in the order of their first block."""
        return list(dict.fromkeys(mixer.label for mixer in self.mixers))
