"""PoNet: pooling at three granularities instead of attention; original parameter names of both published variants."""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.ops.pooling import MASKED, global_attention, local_max, segment_max

# names in the original state dicts of the projections for: query, key, output gate, segment max, local max, value
_KEYS = {
    "base": ("dense_q", "dense_k", "dense_o", "dense_segment", "dense_local", "dense_v"),
    "lra": ("W_q", "W_k", "W_v", "W_segment", "W_local", "W_value"),
}


@register(
    paper="arXiv:2110.02442",
    cost="L",
    variants=({"variant": "lra", "n_segments": 1}, {"segment_len": 5}),
    n_heads=2,
)
class PoNet(Mixer):
    """Pooling network for efficient token mixing in long sequences.

    ``y[t] = (g' + s[t]) * o[t] + l[t]``, where g' is a softmax-weighted sum over all positions, asked for by the mean
    query, s the maximum over the segment of t, l the maximum over t - 1, t, t + 1, and o a linear map of the input.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D^2) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: length that is cut into ``n_segments``. Default: the length of each sequence.
        n_heads: heads of the global part, 12 (base) and 2 (LRA) in the paper.
        variant: ``"base"`` has the parameters of the pre-trained model, ``"lra"`` those of the Long Range Arena code:
            other names, and an output projection.
        n_segments: number of equal parts where no ``segment_index`` is given; as in the original, a part has
            ``length // n_segments + 1`` positions, so that there may be fewer.
        segment_len: length of the parts in positions, in place of ``n_segments``.
        separate_value: separate values in the global part, as in the paper; the original code uses the keys.
        clsgsepg: exclude special tokens from the maxima.
        project: a linear map of the result, as in the layers of the pre-trained model; the variant ``"lra"`` has it.
        original_padding: treat padding as the LRA code does: parts are cut at the padded length, from the first
            position, padding included, and masked positions hold the bias of the output projection.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_heads``, a size is below 1, or ``original_padding`` is set
            for the variant ``"base"``.

    Source: Tan et al., 2021, arXiv:2110.02442, sec. 3. Differs from the original code in: parts of equal length start
    at the first kept position and padding holds zero, unless ``original_padding``; the projections are one product;
    equal maxima share a gradient; a row without any kept position gives zero, there NaN.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int = 1,
        variant: Literal["base", "lra"] = "base",
        n_segments: int = 32,
        segment_len: int | None = None,
        separate_value: bool = False,
        clsgsepg: bool = True,
        project: bool = False,
        original_padding: bool = False,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, n_heads=n_heads, n_segments=n_segments, segment_len=segment_len)
        if variant not in _KEYS:
            raise ConfigError(f"there is no variant {variant!r} of PoNet; use 'base' or 'lra'")
        if d_model % n_heads:
            raise ConfigError(f"d_model = {d_model} is not a multiple of n_heads = {n_heads}; change one of them")
        if original_padding and variant == "base":
            raise ConfigError("original_padding = True says what the LRA code does; set variant='lra' too, or leave it")
        self.max_len, self.n_heads = max_len, n_heads
        self.n_segments, self.segment_len = n_segments, segment_len
        self.clsgsepg, self.original_padding = clsgsepg, original_padding
        self._names = _KEYS[variant] if separate_value else _KEYS[variant][:5]
        for name in self._names:
            self.add_module(name, nn.Linear(d_model, d_model))
        self.ff = nn.Linear(d_model, d_model) if variant == "lra" or project else None

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        segment_index: Tensor | None = None,
        special: Tensor | None = None,
    ) -> Tensor:
        """Mix ``x: (B, L, D)`` along L.

        Args:
            x: input (B, L, D).
            mask: (B, L) bool, True = keep.
            segment_index: id of the segment of each position, for example of its sentence, (B, L) integers.
            special: (B, L) bool, True at special tokens such as [CLS] and [SEP].
        """
        q, k, o, part, near, *v = self._project(zero_masked(x, mask))
        g, _ = global_attention(q, k, v[0] if v else k, n_heads=self.n_heads, mask=mask)
        silent = None if mask is None else ~mask
        if special is not None and self.clsgsepg:
            silent = special if silent is None else silent | special
        part = self._segment_max(part, mask, segment_index)
        near = local_max(near if silent is None else near.masked_fill(silent.unsqueeze(-1), MASKED))
        if silent is not None:
            part, near = (t.masked_fill(silent.unsqueeze(-1), 0) for t in (part, near))
        y = zero_masked((g.unsqueeze(1) + part) * o + near, mask)
        if self.ff is None:
            return y
        y = self.ff(y)
        return y if self.original_padding else zero_masked(y, mask)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        projections = [cast(nn.Linear, getattr(self, name)) for name in self._names]
        weight = torch.cat([each.weight for each in projections])
        bias = torch.cat([each.bias for each in projections])
        return nn.functional.linear(x, weight, bias).chunk(len(self._names), -1)

    def _segment_max(self, s: Tensor, mask: Tensor | None, segment_index: Tensor | None) -> Tensor:
        L = s.shape[1]
        if segment_index is not None:
            return segment_max(s, segment_index, mask=mask)
        if self.original_padding:
            t = torch.arange(L, device=s.device) // (self.segment_len or L // self.n_segments + 1)
            return segment_max(s, t.expand(s.shape[:2]), mask=mask)
        if self.segment_len or self.max_len or mask is None:
            length = self.segment_len or (self.max_len or L) // self.n_segments + 1
            return segment_max(s, length, mask=mask)
        t = torch.arange(L, device=s.device) - mask.byte().argmax(1, keepdim=True)  # (B, L)
        length = mask.sum(1, keepdim=True) // self.n_segments + 1
        return segment_max(s, t.div(length, rounding_mode="floor"), mask=mask)


def segments_from_ids(input_ids: Tensor, *, cls_id: int, sep_id: int) -> tuple[Tensor, Tensor]:
    """Segment ids and special tokens of ``input_ids: (B, L)``, as ``segments_between`` has them."""
    special = (input_ids == cls_id) | (input_ids == sep_id)
    return segments_between(special), special


def segments_between(special: Tensor) -> Tensor:
    """Segment ids ``(B, L)``: each special token alone, the text between two of them together.

    ``segment[t] = cumsum(e[t] + e[t-1]) - 1``, at least 0, with e = 1 at special tokens ``(B, L)`` bool.
    """
    e = special.long()
    before = nn.functional.pad(e, (1, 0))[:, :-1]
    # text before the first special token would be in segment -1
    return ((e + before).cumsum(1) - 1).clamp(min=0)
