"""SSD on a GPU, one direction or both at once: products of tiles, the decay of every pair of positions inside a chunk.

Four steps: the state that each chunk writes, the states passed along, the results; and for the gradients the same with
readers and writers exchanged. Both directions share the values, the product ``g x^T``, and one product of the result.
Decays and what they are differentiated by are small and are kept padded to whole chunks, ``(c, W, H, Q)`` for W ways.
"""

# Triton is not installed where types are checked
# pyright: reportMissingImports=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from itertools import pairwise

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.packed import shift_within
from seqmix.ops.ssd._triton_kernels import codes_kernel, passing_kernel, result_kernel, states_kernel, values_kernel
from seqmix.ops.ssd.rows import many_ways
from seqmix.ops.vmap import map_into_batch

# below e^-100 nothing is left of a state; larger log decays would cost their neighbors digits
_FLOOR = -100.0
# elements of a state per program of the pass over chunks
_STATES = 512


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    reverse: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the result and the last states; arguments as ``ssd._chunked``."""
    dt, a, B, C = (t.unsqueeze(2) for t in (dt, a, B, C))
    y, last, _ = _differentiable(
        x, dt, a, B, C, S.unflatten(0, (len(x), len(bounds) - 1)), bounds, chunk or _chunk_size(x), reverse
    )
    return y, last[:, 0].flatten(0, 1)


def quasiseparable(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int | None
) -> Tensor:
    """Return the sum of both triangles; arguments as ``quasiseparable._chunked``."""
    C = torch.stack([shift_within(C[:, :, i], bounds, reverse=bool(i)) for i in range(2)], 2)
    S = S.unflatten(0, (len(x), len(bounds) - 1))
    return _differentiable(x, dt, a, B, C, S, bounds, chunk or _chunk_size(x), False)[0]


@torch.library.custom_op("seqmix::ssd_triton", mutates_args=())
def _scan(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last states ``(B, W, n, H, P, N)``, and those that enter the chunks ``(c, W, H, P, N)``.

    ``dt, a: (B, L, W, H)`` and ``B, C: (B, L, W, G, N)`` for one way, or for both ways without the diagonal.
    """
    y, last, marks = _empty_results(x, dt, a, B, C, S, bounds, chunk, reverse)
    x, B, C = (t.contiguous() for t in (x, B, C))
    cut = _Cut(x, a, bounds, chunk, reverse)
    dt = cut.pad(dt)
    with torch.cuda.device_of(x):
        writes = _states(x, B, dt * (cut.total - cut.s).exp(), cut)
        first = S.unsqueeze(1).expand(last.shape)
        _pass(writes, first, marks, last, cut, back=False)
        grid = (len(cut.table), x.shape[2])
        result_kernel[grid](x, B, C, dt, cut.s, cut.row, marks, cut.table, y, **_sizes(x, B, cut))
    return y, last, marks


@torch.library.custom_op("seqmix::ssd_triton_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    y: Tensor,
    last: Tensor,
    marks: Tensor,
    bounds: list[int],
    chunk: int,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to x, dt, a, B, C and the first states."""
    x, B, C = (t.contiguous() for t in (x, B, C))
    dx, dS = torch.empty_like(x), last.new_empty(last.shape)
    grad = grad_y.to(x.dtype).contiguous()
    dB, dC = torch.empty_like(B), torch.empty_like(C)
    cut = _Cut(x, a, bounds, chunk, reverse)
    dt = cut.pad(dt)
    drow, ddt, through = torch.empty_like(dt), torch.empty_like(dt), torch.empty_like(cut.total)
    carries = torch.empty_like(marks)
    with torch.cuda.device_of(x):
        reads = _states(grad, C, cut.row.exp(), cut)
        _pass(reads, grad_last, carries, dS, cut, back=True)
        sizes = _sizes(x, B, cut)
        tensors = (x, B, C, dt, cut.s, cut.row, marks, carries, grad, cut.table)
        grid = (len(cut.table), x.shape[2])
        values_kernel[grid](*tensors, dx, drow, ddt, through, **sizes)
        G, N = B.shape[3:]
        grid = (len(cut.table), cut.ways * G, triton.cdiv(N, sizes["BN"]))
        codes_kernel[grid](*tensors, dB, dC, **sizes)
    drow = drow if cut.ways == 1 else cut.shift(drow, back=True)
    da = cut.running_sum(drow - ddt * dt, back=True) + through
    # a decay clipped at the floor has no gradient
    return dx, cut.unpad(ddt), cut.unpad(da) * (a > _FLOOR), dB, dC, dS.sum(1)


class _Cut:
    """The batch cut into chunks that never cross a boundary, and its decays; arguments as ``_scan``."""

    def __init__(self, x: Tensor, a: Tensor, bounds: list[int], chunk: int, reverse: bool) -> None:
        self.size = max(16, triton.next_power_of_2(min(chunk, max(j - i for i, j in pairwise(bounds)))))
        self.shape, self.ways, self.reverse = a.shape, a.shape[2], reverse
        pieces = [(t, min(self.size, j - t)) for i, j in pairwise(bounds) for t in range(i, j, self.size)]
        table = torch.tensor(pieces).repeat(len(x), 1)  # (c, 2): first position, length
        table[:, 0] += torch.arange(len(x)).repeat_interleave(len(pieces)) * x.shape[1]
        slots = torch.arange(self.size)
        valid = slots < table[:, 1:]
        counts = torch.tensor([-(-(j - i) // self.size) for i, j in pairwise(bounds)]).repeat(len(x))
        self.table, self.valid = table.to(x.device), valid.to(x.device)
        self.items = F.pad(counts.cumsum(0), (1, 0)).to(x.device)
        self.positions = (table[:, :1] + slots.minimum(table[:, 1:] - 1)).to(x.device)
        self.places = valid.flatten().nonzero().squeeze(1).to(x.device)
        self.backwards = torch.tensor([reverse] if self.ways == 1 else [False, True], device=x.device)[:, None, None]
        self.s = self.running_sum(self.pad(a).clamp(min=_FLOOR), back=False)
        self.row = self.s if self.ways == 1 else self.shift(self.s, back=False)
        # padding has no decay and changes nothing, so a chunk may end with it
        self.total = torch.where(self.backwards, self.s[..., :1], self.s[..., -1:])  # (c, W, H, 1)

    def pad(self, t: Tensor) -> Tensor:
        """``(B, L, W, H) -> (c, W, H, Q)``, zero beyond the end of a chunk."""
        t = t.flatten(0, 1)[self.positions].masked_fill(~self.valid[..., None, None], 0)
        return t.permute(0, 2, 3, 1).contiguous()

    def unpad(self, t: Tensor) -> Tensor:
        """Undo ``pad``."""
        return t.permute(0, 3, 1, 2).flatten(0, 1)[self.places].view(self.shape)

    def running_sum(self, t: Tensor, back: bool) -> Tensor:
        """Sum from the first position in the order of the scan on, or ``back`` from the last."""
        return torch.where(self.backwards ^ back, t.flip(-1).cumsum(-1).flip(-1), t.cumsum(-1))

    def shift(self, t: Tensor, back: bool) -> Tensor:
        """One step later in the order of the scan, or ``back``."""
        return torch.where(self.backwards ^ back, F.pad(t, (-1, 1)), F.pad(t, (1, -1)))


def _states(x: Tensor, codes: Tensor, weights: Tensor, cut: _Cut) -> Tensor:
    """Contributions of the chunks to the states ``(c, W, H, P, N)``, each position with its weight."""
    (H, P), N = x.shape[2:], codes.shape[-1]
    out = weights.new_empty(len(cut.table), cut.ways, H, P, N)
    sizes = _sizes(x, codes, cut)
    del sizes["reverse"]
    grid = (len(cut.table), cut.ways * H, triton.cdiv(N, sizes["BN"]))
    states_kernel[grid](x, weights.contiguous(), codes, cut.table, out, **sizes)
    return out


def _pass(writes: Tensor, start: Tensor, entering: Tensor, end: Tensor, cut: _Cut, *, back: bool) -> None:
    H, P, N = writes.shape[2:]
    grid = (len(cut.items) - 1, cut.ways * H, triton.cdiv(P * N, _STATES))
    passing_kernel[grid](
        writes,
        cut.total.contiguous(),
        cut.items,
        start.contiguous(),
        entering,
        end,
        H,
        P * N,
        start.shape[2],
        W=cut.ways,
        BLOCK=_STATES,
        reverse=cut.reverse,
        back=back,
    )


def _chunk_size(x: Tensor) -> int:
    # half the chunk where numbers are twice as wide; compiled for sm_90, never timed on a GPU
    return 32 if x.dtype == torch.float32 else 64


def _sizes(x: Tensor, B: Tensor, cut: _Cut) -> dict[str, int | str | bool]:
    (H, P), (G, N) = x.shape[2:], B.shape[3:]
    # tiles of tensor cores have 16 rows at least
    BP, BN = max(16, triton.next_power_of_2(P)), min(64, max(16, triton.next_power_of_2(N)))
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
    sizes = {"H": H, "G": G, "P": P, "N": N, "W": cut.ways, "Q": cut.size, "BP": BP, "BN": BN}
    return {**sizes, "reverse": cut.reverse, "precision": precision, "num_warps": 8, "num_stages": 1}


def _empty_results(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    size = max(16, triton.next_power_of_2(min(chunk, max(j - i for i, j in pairwise(bounds)))))
    chunks = len(x) * sum(-(-(j - i) // size) for i, j in pairwise(bounds))
    (Bt, n, *state), W = S.shape, dt.shape[2]
    return dt.new_empty(x.shape), dt.new_empty(Bt, W, n, *state), dt.new_empty(chunks, W, *state)


def _definition(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int, reverse: bool
) -> tuple[Tensor, Tensor]:
    W, strict = dt.shape[2], dt.shape[2] == 2
    if strict:
        C = torch.stack([shift_within(C[:, :, i], bounds, reverse=not i) for i in range(2)], 2)
    first = S.flatten(0, 1).unsqueeze(1).expand(-1, W, -1, -1, -1)
    y, last = many_ways(x, dt, a, B, C, first, bounds, reverse=reverse, strict=strict)
    return y, last.unflatten(0, S.shape[:2]).transpose(1, 2)


_scan.register_fake(_empty_results)
map_into_batch(_scan)
map_into_batch(_scan_backward)
_differentiable = differentiable(_scan, _scan_backward, _definition, tensors=6, results=2, kept=(0, 1, 2))
