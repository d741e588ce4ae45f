"""Initial and final states of causal mixers, and sequences packed into one row."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer
from seqmix.ops.packed import sequence_bounds

#: ``(x, kept, state) -> y, state``; ``kept: (B, L)`` bool marks the leading positions that count, None for all of them
Advance = Callable[[Tensor, Tensor | None, Any], tuple[Tensor, Any]]


def mix_onward(
    mixer: Mixer,
    advance: Advance,
    x: Tensor,
    mask: Tensor | None,
    state: Any,
    return_state: bool,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Any]:
    """Mix ``x: (B, L, D)`` from an initial state; masked positions do not change the state.

    Args:
        mixer: the mixer, for its first state.
        advance: the causal mixing of sequences that begin at the left end of their rows.
        x: input ``(B, L, D)``.
        mask: positions to keep ``(B, L)`` bool.
        state: the state to go on from. Default: that before the first position.
        return_state: return ``(y, state)``.
        cu_seqlens: bounds ``(S + 1,)`` of sequences packed into one row; states are then of S sequences.

    Raises:
        TypeError: if the mixer sees later positions.
    """
    if cu_seqlens is not None:
        sequence_bounds(x, cu_seqlens, mask)
        x, mask = unpack(x, cu_seqlens)
    if state is None or not mixer.causal:
        state = mixer.init_state(x.shape[0])
    if mask is None:
        y, state = advance(x, None, state)
    else:
        kept = torch.arange(x.shape[1], device=x.device) < mask.sum(1, keepdim=True)

        def run(x: Tensor) -> Tensor:
            nonlocal state
            y, state = advance(x, kept, state)
            return y

        y = mix_aligned(run, x, mask)
    if cu_seqlens is not None:
        y = y[mask].unsqueeze(0)
    return (y, state) if return_state else y


def detach_state(state: Any) -> Any:
    """The state of a mixer or model detached from the graph, for truncated back-propagation."""
    if isinstance(state, tuple | list):
        return type(state)(detach_state(part) for part in state)
    return state.detach() if isinstance(state, Tensor) else state


def unpack(x: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences packed into ``x: (1, L, ...)``, each in a row of its own ``(S, longest, ...)``, and their mask."""
    lengths = cu_seqlens.diff()
    mask = torch.arange(int(lengths.max()), device=x.device) < lengths.unsqueeze(1)  # (S, longest)
    rows = x.new_zeros(*mask.shape, *x.shape[2:])
    rows[mask] = x[0]
    return rows, mask


def check_sequences(kept: Tensor, x: Tensor) -> None:
    """Check that a part of a state goes with ``x: (B, ...)``.

    Raises:
        ValueError: if it is of another number of sequences.
    """
    if len(kept) != len(x):
        raise ValueError(
            f"the state is of {len(kept)} sequences, x of {len(x)}; use that of this batch, or init_state({len(x)})"
        )


def with_last(kept: Tensor, x: Tensor) -> Tensor:
    """Inputs ``x: (B, L, ...)`` after the last ones before them, ``(B, size, ...) -> (B, size + L, ...)``.

    Raises:
        ValueError: if those are of another number of sequences.
    """
    check_sequences(kept, x)
    return torch.cat([kept.to(x.dtype), x], 1)


def last_inputs(inputs: Tensor, size: int, kept: Tensor | None) -> Tensor:
    """The last ``size`` of ``inputs: (B, size + L, ...)``; ``kept: (B, L)`` marks those of the last L that count."""
    if kept is None:
        return inputs[:, inputs.shape[1] - size :]
    at = kept.sum(1, keepdim=True) + torch.arange(size, device=inputs.device)  # (B, size)
    at = at.view(*at.shape, *[1] * (inputs.ndim - 2))
    return inputs.gather(1, at.expand(-1, -1, *inputs.shape[2:]))
