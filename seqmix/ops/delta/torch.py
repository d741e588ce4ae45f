"""Gated delta rule in chunks, of PyTorch's operators: the WY representation (Yang et al., 2024, arXiv:2406.06484).

With ``D_ij`` the decay from position j to position i of a chunk, ``A_ij = <erase_i, D_ij write_j>`` below the diagonal
and ``M_ij = <q_i, D_ij write_j>`` on and below it, what is written is ``U = (I + A)^-1 (V - R S)`` and what is read is
``Q S + M U``, where S is the state on entry and R, Q are erase and q times the decay since. Only decays of at most 1
are formed: one as a quotient of two products of them would leave the range of floats.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops.packed import gather, slots, spread

_CHUNK = 32
# elements of keys per block on a CPU: 1 MB in float32
_BLOCK = 2**18


def scan_chunks(
    q: Tensor,
    erase: Tensor | None,
    write: Tensor,
    v: Tensor,
    decay: Tensor,
    S: Tensor,
    bounds: list[int],
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the result and the last states.

    Args:
        q: what is read ``(B, L, H, K)``.
        erase: key whose value is replaced, likewise. Default: nothing is replaced.
        write: key that is written, likewise, times the strength of the write.
        v: values ``(B, L, H, V)``.
        decay: log decays ``(B, L, H, 1)`` or ``(B, L, H, K)``.
        S: first states ``(B, H, K, V)``, packed ``(S, H, K, V)``.
        bounds: bounds of the sequences along L.
        chunk: positions per chunk, 32 by default, rounded up to a power of two.
    """
    longest = max(j - i for i, j in pairwise(bounds))
    C = 1 << (min(chunk or _CHUNK, longest) - 1).bit_length()
    starts, length = slots(bounds, multiple=C)
    # padding neither decays nor writes
    tensors = {
        name: spread(t, bounds, starts, length).unflatten(1, (-1, C))  # (B, c, C, H, ·)
        for name, t in {"q": q, "erase": erase, "write": write, "v": v, "decay": decay}.items()
        if t is not None
    }
    first, ends, ys = {t // C for t in starts}, [], []
    state = S if len(starts) == 1 else S[:1]
    size = _chunks_at_once(tensors["write"], C)
    for i in range(0, length // C, size):
        part = _Part(**{name: t[:, i : i + size].movedim(3, 1) for name, t in tensors.items()})
        befores, written = [], []
        for k in range(part.v.shape[2]):
            if i + k in first and i + k:
                # packed sequences lie in a batch of one
                ends.append(state)
                state = S[len(ends)].unsqueeze(0)
            befores.append(state)
            state, u = part.pass_chunk(k, state)
            written.append(u)
        ys.append(part.read(torch.stack(befores, 2), torch.stack(written, 2)))
    y = torch.cat(ys, 2).movedim(1, 3).flatten(1, 2)
    return gather(y, bounds, starts), torch.cat([*ends, state])


class _Part:
    """Chunks that are processed at once: their common part, before the state is known.

    Args:
        q: what is read ``(B, H, c, C, K)``.
        write: key that is written, likewise.
        v: values ``(B, H, c, C, V)``.
        decay: log decays ``(B, H, c, C, 1 or K)``.
        erase: key whose value is replaced ``(B, H, c, C, K)``, or None.
    """

    def __init__(self, q: Tensor, write: Tensor, v: Tensor, decay: Tensor, erase: Tensor | None = None) -> None:
        self.v = v
        readers = torch.stack([q] if erase is None else [q, erase], 4)  # (B, H, c, C, 1 or 2, K)
        products = pair_products(readers, write, decay)
        since = running_sum(decay).exp()
        self.total = since[..., -1, :, None].unbind(2)
        rest = F.pad(running_sum(decay, back=True)[..., 1:, :], (0, 0, 0, 1)).exp()
        self.writes = (write * rest).mT.unbind(2)  # (B, H, K, C) each
        readers = readers * since.unsqueeze(-2)
        self.reader, self.M = readers[..., 0, :], products[..., 0, :]
        written, self.W = v, None
        if erase is not None:
            # forward substitution (which does not read the diagonal) for a few columns, then products, which are faster
            unit = torch.eye(v.shape[-2], dtype=v.dtype, device=v.device).expand(products[..., 1, :].shape)
            T = torch.linalg.solve_triangular(products[..., 1, :], unit, upper=False, unitriangular=True)
            written, self.W = T @ v, (T @ readers[..., 1, :]).unbind(2)
        self.U = written.unbind(2)

    def pass_chunk(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """Pass the state ``(B, H, K, V)`` through a chunk; return it, and the writes ``(B, H, C, V)``."""
        u = self.U[k] if self.W is None else self.U[k] - self.W[k] @ state
        return self.total[k] * state + self.writes[k] @ u, u

    def read(self, before: Tensor, written: Tensor) -> Tensor:
        """Return the result ``(B, H, c, C, V)`` of the states on entry and of the writes."""
        return self.reader @ before + self.M @ written


def pair_products(readers: Tensor, write: Tensor, decay: Tensor) -> Tensor:
    """``<reader_i, D_ij write_j>`` for all pairs of a chunk, zero above the diagonal.

    Shapes: ``(..., C, m, K), (..., C, K), (..., C, 1 or K) -> (..., C, m, C)``, C a power of two.

    With a decay for each channel that of a pair is the product of that from the writer to the middle between them and
    that from there to the reader: blocks of 1, 2, 4, ... positions meet, each below the diagonal of the next.
    """
    C = write.shape[-2]
    if decay.shape[-1] == 1:
        ratios = decay.expand(*decay.shape[:-1], C).tril(-1).cumsum(-2).exp().tril()
        return _products(readers, write) * ratios.unsqueeze(-2)
    blocks = torch.einsum("...imk,...ik->...im", readers, write)[..., None, :, None]  # (..., C, 1, m, 1)
    size = 1
    while size < C:
        early, late = decay.unflatten(-2, (-1, 2, size)).unbind(-3)  # (..., n, size, K)
        ahead = F.pad(running_sum(early, back=True)[..., 1:, :], (0, 0, 0, 1)).exp()
        left = write.unflatten(-2, (-1, 2, size))[..., 0, :, :] * ahead
        right = readers.unflatten(-3, (-1, 2, size))[..., 1, :, :, :] * running_sum(late).exp().unsqueeze(-2)
        first, second = blocks.unflatten(-4, (-1, 2)).unbind(-4)  # (..., n, size, m, size)
        blocks = torch.cat([F.pad(first, (0, size)), torch.cat([_products(right, left), second], -1)], -3)
        size *= 2
    return blocks.squeeze(-4)


def _products(readers: Tensor, write: Tensor) -> Tensor:
    """``(..., C, m, K), (..., C, K) -> (..., C, m, C)``."""
    return (readers.flatten(-3, -2) @ write.mT).unflatten(-2, readers.shape[-3:-1])


def _chunks_at_once(write: Tensor, C: int) -> int:
    B, _, _, H, K = write.shape
    return max(1, _BLOCK // (B * H * C * K)) if write.device.type == "cpu" else max(1, write.shape[1])


def running_sum(x: Tensor, *, back: bool = False) -> Tensor:
    """Sum of ``x: (..., C, K)`` from the first position on, or from the last one back."""
    return x.flip(-2).cumsum(-2).flip(-2) if back else x.cumsum(-2)
