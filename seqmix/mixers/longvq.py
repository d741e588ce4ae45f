"""LongVQ: a gated state space model whose attention sees quantized keys, in linear time."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

# `torch.compiler.disable`, but that imports the compiler, as large as the rest of torch, at the first call only
from torch._compile import _disable_dynamo
from torch.autograd import Variable

from seqmix.errors import ConfigError, check_at_least, check_fraction
from seqmix.mixers.codebook import Codebook
from seqmix.mixers.ema import EMA
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.near_bias import SinusoidBias, TableBias
from seqmix.mixers.norm import ScaleNorm
from seqmix.mixers.s4d import S4D
from seqmix.mixers.state import mix_onward
from seqmix.ops.vq import (
    Kind,
    VQState,
    commitment_loss,
    init_vq_state,
    nearest_code,
    vq_attention,
    vq_attention_resume,
    vq_attention_weights,
)
from seqmix.ops.wide import wide

#: of the state space model, and of the attention
State = tuple[Tensor, VQState]


@register(
    paper="arXiv:2404.11163",
    cost="L",
    variants=(
        {"causal": True},
        {"attention": "laplace", "norm": "scale", "restart": 0.1},
        {"causal": True, "ssm": "s4d", "d_state": 4, "local_bias": "sinusoid", "norm": "layer", "smoothing": 1e-3},
    ),
    d_qk=6,
    n_codes=8,
    window=3,
)
class LongVQ(Mixer):
    """Long sequence modeling with vector quantization on a structured memory: a reconstruction.

    ``m = SSM(x')``, ``[φ | ζ | γ | η] = m W + b``, q and k scaled and shifted copies of ``SiLU(ζ)``,
    ``v = SiLU(x' W_v + b_v)``, ``o = attention(q, code of k, v)`` with a bias for near keys,
    ``h = SiLU(η + (SiLU(γ) o) W_h + b_h)``, ``y = σ(φ) (h - x)``; x' is x, normalized if ``norm`` says so. A residual
    connection around the mixer gives the gate of Mega, ``x + y = σ(φ) h + (1 - σ(φ)) x``: for the post-norm block of
    the source leave ``norm`` at ``"none"`` and normalize after the sum; for the pre-norm block set ``norm`` here and
    ``norm: none`` in the block.

    ``auxiliary`` returns the commitment loss of the last forward in training. The tasks add it to their loss; a loop of
    your own adds ``auxiliary_loss(model)``. The codebook moves when that sum has been back-propagated, so forward alone
    changes nothing. Activation checkpointing needs ``use_reentrant=False``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L (D^2 + (n_codes + window) (P + V))) time, O(L (n_codes + window))
    memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_qk: width of queries and keys P.
        d_value: width of values V. Default: 2 D.
        d_state: state dimensions per channel of the SSM.
        ssm: ``"ema"``, the damped moving average of Mega, or ``"s4d"``.
        attention: ``"softmax"``, or ``"laplace"``, element-wise without a denominator.
        local_bias: ``"table"``, a learned number per distance, or ``"sinusoid"``, projected sinusoids of the distance
            against the query, as in Transformer-XL.
        n_codes: codes in the codebook.
        window: farthest distance with a bias, in positions.
        block: queries handled together; changes cost, not results. Default: ``window``.
        decay: share of the codebook's moving sums that one update keeps.
        commitment: weight of the commitment loss.
        codebook_init: ``"data"``, the first update makes keys of its batch the codes, or ``"normal"``, random codes.
        restart: codes whose moving count falls below this start again as a key of the batch; 0 is off.
        smoothing: Laplace smoothing of the counts; 0 is off.
        dropout: fraction dropped of the SSM's output and of h in training.
        norm: norm of x before the mixer: ``"none"``, ``"layer"``, ``"scale"`` or ``"batch"`` (kept positions only).
        causal: see earlier positions only.

    Raises:
        ConfigError: if an option is unknown, or a size is below its minimum.

    Source: Liu et al., 2024, arXiv:2404.11163. No code was published; this composes the two systems that the paper
    builds on, Mega (arXiv:2209.10655) and Transformer-VQ (arXiv:2309.16354). Differs from the original code in: not
    known; from Transformer-VQ in what ``seqmix.ops.vq`` says, the data initialization, restarts and smoothing.
    """

    # of the last forward in training, None in evaluation
    _commitment: "_Commitment | None" = None
    # backward passes that left its loss out
    _forgotten = 0
    attention: Kind

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_qk: int = 64,
        d_value: int | None = None,
        d_state: int = 16,
        ssm: Literal["ema", "s4d"] = "ema",
        attention: Kind = "softmax",
        local_bias: Literal["table", "sinusoid"] = "table",
        n_codes: int = 512,
        window: int = 128,
        block: int | None = None,
        decay: float = 0.99,
        commitment: float = 1e-4,
        codebook_init: Literal["data", "normal"] = "data",
        restart: float = 0.0,
        smoothing: float = 0.0,
        dropout: float = 0.0,
        norm: Literal["none", "layer", "scale", "batch"] = "none",
        causal: bool = False,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, d_qk=d_qk, d_value=d_value, n_codes=n_codes, block=block)
        check_at_least(0, window=window, commitment=commitment, restart=restart, smoothing=smoothing)
        check_fraction(dropout=dropout, decay=decay)
        _check_option("ssm", ssm, ("ema", "s4d"))
        _check_option("attention", attention, ("softmax", "laplace"))
        _check_option("local_bias", local_bias, ("table", "sinusoid"))
        _check_option("codebook_init", codebook_init, ("data", "normal"))
        _check_option("norm", norm, tuple(_NORMS))
        V = 2 * d_model if d_value is None else d_value
        self.causal, self.attention, self.window, self.block = causal, attention, window, block
        self.commitment = commitment
        self.norm = _NORMS[norm](d_model)
        self.move = (EMA if ssm == "ema" else S4D)(d_model, d_state=d_state, causal=causal)
        self.widths = (d_model, d_qk, V, d_model)
        self.mx_proj = nn.Linear(d_model, sum(self.widths))
        self.v_proj = nn.Linear(d_model, V)
        self.h_proj = nn.Linear(V, d_model)
        self.gamma = nn.Parameter(0.02 * torch.randn(2, d_qk))
        self.beta = nn.Parameter(torch.zeros(2, d_qk))
        self.bias = _BIASES[local_bias](d_qk, window, causal)
        self.codebook = Codebook(
            n_codes, d_qk, decay=decay, from_data=codebook_init == "data", restart=restart, smoothing=smoothing
        )
        self.dropout = nn.Dropout(dropout)
        for linear in (self.mx_proj, self.v_proj, self.h_proj):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, state: State | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, State]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state)
        x = zero_masked(x, mask)
        normed = self._normalize(x, mask)
        phi, q, k, gate, eta = self._project(self.dropout(self.move(normed, mask)))
        v = nn.functional.silu(self.v_proj(normed))
        codes = self.codebook.codes()
        z = nearest_code(k, codes)
        q, bias = self.bias(q)
        o = vq_attention(
            q,
            k,
            v,
            codes,
            z,
            bias,
            window=self.window,
            causal=self.causal,
            kind=self.attention,
            block=self.block,
            mask=mask,
        )
        y = zero_masked(self._gate(x, phi, gate, eta, o), mask)
        self._learn(k, codes, z, mask, y)
        return y

    def auxiliary(self) -> Tensor | None:
        """Return the weighted commitment loss of the last forward in training."""
        if self._commitment is None:
            return None
        self._commitment.asked = True
        return self._commitment.loss

    def matrix(self, x: Tensor) -> Tensor:
        """Attention to the quantized keys, that stands between the projections: ``(B, 1, L, L)``."""
        _, q, k, _, _ = self._project(self.move(self._normalize(x, None)))
        codes = self.codebook.codes()
        q, bias = self.bias(q)
        z = nearest_code(k, codes)
        M = vq_attention_weights(q, codes, z, bias, window=self.window, causal=self.causal, kind=self.attention)
        return M.unsqueeze(1).to(x.dtype)

    def init_state(self, batch_size: int) -> State:
        """State of the SSM; codes, keys and values of the window; and a table of older positions."""
        if not self.causal:
            raise TypeError("LongVQ has no step() in both directions; build it with causal=True")
        codes, V = self.codebook.codes(), self.widths[2]
        return self.move.init_state(batch_size), init_vq_state(batch_size, window=self.window, codes=codes, d_value=V)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        moved, seen = state
        normed = self._normalize(x, kept)
        m, moved = self.move(normed, kept, state=moved, return_state=True)
        phi, q, k, gate, eta = self._project(self.dropout(m))
        v = nn.functional.silu(self.v_proj(normed))
        codes = self.codebook.codes()
        z = nearest_code(k, codes)
        q, bias = self.bias(q)
        o, seen = vq_attention_resume(q, k, v, codes, z, bias, seen, kind=self.attention, block=self.block, kept=kept)
        y = self._gate(x, phi, gate, eta, o)
        self._learn(k, codes, z, kept, y)
        return y, (moved, seen)

    def _learn(self, k: Tensor, codes: Tensor, z: Tensor, mask: Tensor | None, y: Tensor) -> None:
        """In training, keep the commitment loss; the codebook follows the keys when that has been back-propagated."""
        self._commitment = None
        if self.training:
            loss = self.commitment * commitment_loss(k, codes, z, mask)
            _after_backward(loss, partial(self.codebook.learn, k.detach(), z, mask))
            self._commitment = _Commitment(loss)
            _in_backward(y, partial(self._expect_asked, self._commitment))

    def __getstate__(self) -> dict[str, Any]:
        # a loss inside a graph can be neither copied nor pickled
        return {**self.__dict__, "_commitment": None}

    def _expect_asked(self, commitment: "_Commitment") -> None:
        self._forgotten += not commitment.asked
        # the second missed backward shows a training loop; warn only then
        if not commitment.asked and self._forgotten == 2:
            warnings.warn(
                "the codebook of LongVQ does not learn: its auxiliary loss is not part of the loss; add "
                "seqmix.mixers.auxiliary_loss(model) to it",
                stacklevel=2,
            )

    def _normalize(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if not isinstance(self.norm, nn.BatchNorm1d):
            return self.norm(x)
        if mask is None:
            return self.norm(x.flatten(0, 1)).view_as(x)
        y = torch.zeros_like(x)
        y[mask] = self.norm(x[mask])
        return y

    def _project(self, m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        phi, zeta, gate, eta = self.mx_proj(m).split(self.widths, -1)
        zeta = wide(nn.functional.silu(zeta))
        q, k = (_unit(zeta * wide(g) + wide(b)) for g, b in zip(self.gamma, self.beta, strict=True))
        return phi, q, k, gate, eta

    def _gate(self, x: Tensor, phi: Tensor, gate: Tensor, eta: Tensor, o: Tensor) -> Tensor:
        h = nn.functional.silu(eta + self.h_proj(nn.functional.silu(gate) * o))
        return phi.sigmoid() * (self.dropout(h) - x)


class _Commitment:
    """Commitment loss of one forward, and whether the training loop asked for it."""

    def __init__(self, loss: Tensor):
        self.loss, self.asked = loss, False


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": nn.Identity,
    "layer": nn.LayerNorm,
    "scale": ScaleNorm,
    "batch": nn.BatchNorm1d,
}
_BIASES = {"table": TableBias, "sinusoid": SinusoidBias}


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"there is no {name} = {value!r}; use {' or '.join(map(repr, known))}")


def _unit(x: Tensor) -> Tensor:
    """Norm ``P^(1/4)``, so that a product of two has the size of a scaled dot product."""
    P = x.shape[-1]
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * P**-0.25


@_disable_dynamo
def _after_backward(loss: Tensor, act: Any) -> None:
    """Call ``act`` at the end of the backward pass that reaches ``loss``.

    Not before: layers recomputed by activation checkpointing have to see the codes of their forward.
    """
    if loss.requires_grad:
        loss.register_hook(lambda _: Variable._execution_engine.queue_callback(act))


@_disable_dynamo
def _in_backward(y: Tensor, act: Callable[[], None]) -> None:
    """Call ``act`` when a backward pass reaches ``y``."""
    if y.requires_grad:
        y.register_hook(lambda _: act())
