"""The product in chunks on any device: one pass of ``ssd.torch`` per direction."""

from torch import Tensor

from seqmix.ops.packed import shift_within
from seqmix.ops.ssd.torch import scan_chunks


def quasiseparable(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int | None
) -> Tensor:
    """Return the sum of both triangles; arguments as ``reference``."""
    lower, upper = (
        scan_chunks(
            x,
            dt[:, :, i],
            a[:, :, i],
            B[:, :, i],
            shift_within(C[:, :, i], bounds, reverse=bool(i)),
            S,
            bounds,
            chunk=chunk,
            reverse=bool(i),
            strict=True,
        )[0]
        for i in range(2)
    )
    return lower + upper
