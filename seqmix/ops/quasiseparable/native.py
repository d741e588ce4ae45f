"""The product by the compiled kernel of ``ssd.native``, both directions in one pass."""

from torch import Tensor

from seqmix.ops.ssd.native import scan_ways


def quasiseparable(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int | None
) -> Tensor:
    """Return the sum of both triangles; arguments as ``reference``."""
    S = S.unsqueeze(1).expand(-1, 2, -1, -1, -1)
    return scan_ways(x, dt, a, B, C, S, bounds, chunk=chunk, reverse=False, strict=True)[0]
