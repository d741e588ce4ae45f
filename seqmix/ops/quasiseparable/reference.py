"""The product as proposition 3.7 has it, two shifted scans: the definition of the others."""

from torch import Tensor

from seqmix.ops.ssd.rows import many_ways


def reference(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int | None
) -> Tensor:
    """Sum ``shift(SS(x))`` and ``flip(shift(SS'(flip(x))))``, ``SS`` the recurrence of ``ssd.reference``.

    Args:
        x: values ``(B, L, H, P)``.
        dt: step sizes of the two directions ``(B, L, 2, H)``.
        a: log decays ``(B, L, 2, H)``.
        B: what is written ``(B, L, 2, G, N)``.
        C: what is read ``(B, L, 2, G, N)``.
        S: first state of both directions ``(B, H, P, N)``, packed one per sequence.
        bounds: bounds of the sequences along L.
        chunk: ignored.
    """
    S = S.unsqueeze(1).expand(-1, 2, -1, -1, -1)
    return many_ways(x, dt, a, B, C, S, bounds, reverse=False, strict=True)[0]
