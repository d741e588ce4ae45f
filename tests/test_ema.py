"""Damped moving average and S4D: the scan against the recurrence, the Fourier transform and the matrix."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seqmix.errors import ConfigError
from seqmix.mixers import EMA, S4D
from seqmix.mixers.decay import decay_kernel, decay_scan
from seqmix.testing import assert_close_ratio

LENGTHS = (1, 2, 7, 63, 64, 65, 200)
D, N = 3, 4


def _modes(complex_modes, dtype):
    rate = torch.rand(D, N, dtype=dtype) * 0.5 + 0.01
    turn = torch.randn(D, N, dtype=dtype)
    weight = torch.randn(D, N, dtype=dtype)
    if not complex_modes:
        return -rate, weight
    return torch.complex(-rate, turn), torch.complex(weight, torch.randn(D, N, dtype=dtype))


@pytest.mark.parametrize("complex_modes", [False, True])
@pytest.mark.parametrize("dtype, ratio", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("L", LENGTHS)
def test_scan_equals_recurrence_and_fourier_transform(L, dtype, ratio, complex_modes):
    log_decay, weight = (p.requires_grad_() for p in _modes(complex_modes, dtype))
    x = torch.randn(2, L, D, dtype=dtype, requires_grad=True)
    y = decay_scan(x, log_decay, weight)

    h, rows = torch.zeros_like(log_decay), []
    for u in x.unbind(1):
        h = log_decay.exp() * h + u.unsqueeze(-1)
        rows.append((weight * h).sum(-1).real)
    recurrence = torch.stack(rows, 1)
    assert_close_ratio("recurrence", y, recurrence, ratio)
    grads = (torch.autograd.grad(t.square().sum(), (x, log_decay, weight)) for t in (y, recurrence))
    for got, want in zip(*grads, strict=True):
        # a gradient of the decays adds up to 200 terms, each times its distance
        assert_close_ratio("gradient", torch.view_as_real(got + 0j), torch.view_as_real(want + 0j), 20 * ratio)

    kernel = decay_kernel(log_decay, weight, L).T
    spectrum = torch.fft.rfft(kernel, 2 * L, dim=0) * torch.fft.rfft(x, 2 * L, dim=1)
    assert_close_ratio("Fourier transform", y, torch.fft.irfft(spectrum, 2 * L, dim=1)[:, :L], ratio)


@pytest.mark.parametrize("causal", [True, False])
def test_ema_is_the_recurrence_of_the_paper(causal):
    L = 9
    mixer = EMA(D, d_state=N, causal=causal).double()
    x = torch.randn(2, L, D, dtype=torch.float64)
    # the original code calls α delta and δ alpha
    a, d, b = mixer.delta.sigmoid()[..., 0], mixer.alpha.sigmoid()[..., 0], mixer.beta[..., 0]

    def average(x, at):
        h, rows = torch.zeros(2, D, N, dtype=torch.float64), []
        for u in x.unbind(1):
            h = (a[at] * b[at]) * u.unsqueeze(-1) + (1 - a[at] * d[at]) * h
            rows.append((mixer.gamma[at] * h).sum(-1) / N**0.5)
        return torch.stack(rows, 1)

    y = average(x, slice(0, D))
    if not causal:
        # includes x[t] itself, so that x[t] enters twice
        y = y + average(x.flip(1), slice(D, 2 * D)).flip(1)
    assert_close_ratio("EMA", mixer(x), nn.functional.silu(y + mixer.omega * x), 1e-12)


@pytest.mark.parametrize("cls", [EMA, S4D])
@pytest.mark.parametrize("causal", [True, False])
def test_matrix_stands_before_the_activation(cls, causal):
    mixer = cls(D, d_state=N, causal=causal).double()
    x = torch.randn(2, 70, D, dtype=torch.float64)
    y = nn.functional.silu(torch.einsum("bdij,bjd->bid", mixer.matrix(x), x))
    assert_close_ratio(cls.__name__, mixer(x), y, 1e-12)


def test_s4d_kernel_is_the_zero_order_hold():
    mixer = S4D(1, d_state=2).double()
    A = torch.complex(-mixer.log_A_real.exp(), mixer.A_imag)[0, 0]
    dt, C = mixer.log_dt.exp()[0], torch.view_as_complex(mixer.C)[0, 0]
    t = torch.arange(5)
    k = 2 * (C * ((dt * A).exp() - 1) / A * (dt * A * t).exp()).real
    assert_close_ratio("S4D", decay_kernel(*mixer._modes(), 5)[0], k, 1e-12)
    assert 1e-3 <= dt <= 1e-1


@pytest.mark.parametrize("cls", [EMA, S4D])
def test_operations_grow_with_the_length_exactly(cls):
    def operations(L):
        with FlopCounterMode(display=False) as counter:
            cls(D, d_state=N)(torch.randn(1, L, D))
        return counter.get_total_flops()

    # the kernel of one chunk is all that does not depend on the length
    assert operations(2048) - operations(1024) == 8 * (operations(256) - operations(128)) > 0


def test_long_sequences_and_saturated_decays_stay_finite():
    mixer = EMA(D, d_state=2)
    with torch.no_grad():
        mixer.delta[0], mixer.alpha[0] = 40.0, 40.0
        mixer.delta[1] = -40.0
    x = torch.randn(1, 20_000, D, requires_grad=True)
    y = mixer(x)
    y.sum().backward()
    for t in (y, x.grad, mixer.delta.grad, mixer.alpha.grad):
        assert t.isfinite().all()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: EMA(4, d_state=0), "d_state = 0 is below 1; use d_state=1 or more"),
        (lambda: S4D(4, d_state=3), "d_state = 3 does not make complex modes; use a positive even number"),
        (lambda: S4D(4, dt_min=0.2), "dt_min = 0.2 and dt_max = 0.1 are not 0 < dt_min <= dt_max; change them"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ConfigError, match="^" + message + "$"):
        build()
