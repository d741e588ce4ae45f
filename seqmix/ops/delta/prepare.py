"""Operands of the gated delta rule, checked, masked, and in one form for all implementations."""

from typing import NamedTuple

from torch import Tensor

from seqmix.ops.operands import require_at_least_one, require_axes, require_groups, require_mask, require_operands
from seqmix.ops.wide import wide


class Operands(NamedTuple):
    """Operands of an implementation, in float32 or float64; see ``reference``.

    Args:
        q: what is read ``(B, L, H, K)``, times the scale.
        erase: key whose value is replaced, likewise, or None.
        write: key that is written, times its strength, likewise.
        v: values ``(B, L, H, V)``.
        decay: log decays ``(B, L, H, 1 or K)``.
    """

    q: Tensor
    erase: Tensor | None
    write: Tensor
    v: Tensor
    decay: Tensor

    def flip(self) -> "Operands":
        """The same from the last position to the first."""
        erase = None if self.erase is None else self.erase.flip(1)
        return Operands(self.q.flip(1), erase, self.write.flip(1), self.v.flip(1), self.decay.flip(1))


def operands(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    beta: Tensor | None,
    erase: Tensor | None,
    scale: float | None,
    mask: Tensor | None,
    chunk: int | None,
) -> Operands:
    """Check and prepare the operands of ``gated_delta``."""
    require_axes("q", q, "B L G K")
    require_axes("v", v, "B L H V")
    require_mask(q, mask)
    require_at_least_one(chunk=chunk)
    (B, L, G, K), H = q.shape, v.shape[2]
    rates = (B, L, H, K) if isinstance(decay, Tensor) and decay.ndim == 4 else (B, L, H)
    require_operands(
        q,
        ("k", k, q.shape),
        ("v", v, (B, L, *v.shape[2:])),
        optional=(("decay", decay, rates), ("beta", beta, (B, L, H)), ("erase", erase, q.shape)),
    )
    require_groups("H", H, G)
    dtype = wide(q).dtype
    if mask is not None:
        hidden = ~mask[..., None, None]
        q, k, v = (t.masked_fill(hidden, 0) for t in (q, k, v))
        erase = erase if erase is None else erase.masked_fill(hidden, 0)
        beta = beta if beta is None else beta.masked_fill(hidden[..., 0], 0)
        decay = decay if decay is None else decay.masked_fill(hidden if decay.ndim == 4 else hidden[..., 0], 0)
    read, write, v = (t.to(dtype) for t in (q, k, v))
    erase = write if erase is None and beta is not None else erase if erase is None else erase.to(dtype)
    decay = read.new_zeros(B, L, H) if decay is None else decay.to(dtype)
    read = read * (max(K, 1) ** -0.5 if scale is None else scale)
    if H != G:
        read, write = (t.repeat_interleave(H // G, 2) for t in (read, write))
        erase = erase if erase is None else erase.repeat_interleave(H // G, 2)
    if beta is not None:
        write = write * beta.to(dtype).unsqueeze(-1)
    return Operands(
        read,
        erase,
        write,
        v,
        decay if decay.ndim == 4 else decay.unsqueeze(-1),
    )
