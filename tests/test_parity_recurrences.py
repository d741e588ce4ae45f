"""Recurrent mixers against outputs of their original code; LRU, which has none, against the listing of its paper."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from seqmix.mixers import LRU, MLSTM, RGLRU, S5, SLSTM, Based, Hyena, Mamba3, Mega, MinGRU, MinLSTM, SlidingWindow
from seqmix.mixers.s5 import _hippo_modes
from seqmix.testing import assert_close_ratio

FOLDER = Path(__file__).parent / "goldens"
CASES = {
    name: case
    for file in ("gated_rnns.pt", "mamba3.pt", "xlstm.pt", "hyena.pt", "based.pt", "mega.pt")
    for name, case in torch.load(FOLDER / file, weights_only=True).items()
}
S5_GOLDENS = {name: torch.from_numpy(value) for name, value in np.load(FOLDER / "s5.npz").items()}
_mega = partial(Mega, 6, 15, d_qk=4, d_value=10, d_state=3, norm="layer")
MIXERS = {
    "min_gru": MinGRU(6),
    "min_gru_expand": MinGRU(6, expand=2),
    "min_lstm": MinLSTM(6),
    "min_lstm_expand": MinLSTM(6, expand=2),
    "mamba3": Mamba3(6, d_state=8, headdim=4),
    "mamba3_groups": Mamba3(6, d_state=6, headdim=3, ngroups=2, rope_fraction=1.0, outproj_norm=True),
    "mlstm": MLSTM(8, n_heads=4),
    "mlstm_bias": MLSTM(8, n_heads=2, qkv_block=8, bias=True),
    "slstm": SLSTM(8, n_heads=4),
    "hyena": Hyena(4, 97, filter_order=6),
    "hyena_bands": Hyena(4, 97, filter_order=5, emb_dim=5, d_conv=2, n_filter_layers=1, frequency=3.0, shift=0.1),
    "based": Based(6, n_heads=2, feature_dim=3),
    "sliding_window": SlidingWindow(6, window=4),
    "mega": _mega(),
    "mega_causal": _mega(causal=True),
    "mega_laplace": _mega(attention="laplace", bias="rotary", chunk=4),
    "mega_laplace_causal": _mega(causal=True, attention="laplace", chunk=4),
    "rg_lru": RGLRU(6, width=8, n_heads=2),
}
NAMES = {
    "to_hidden_and_gate": "in_proj",
    "to_hidden_and_f_i_gate": "in_proj",
    "to_out": "out_proj",
    "conv_1d.w": "conv1d.weight",
    "conv_1d.b": "conv1d.bias",
    "rg_lru.": "",
    "mlstm_cell.": "",
    "conv1d.conv": "conv1d",
    "filter_fn.bias": "long_bias",
    "norm.norm": "norm",
    "rel_pos_bias.rel_pos_bias": "rel_pos_bias",
    "filter_fn.implicit_filter.1.freq": "freq",
    "slstm_cell._recurrent_kernel_": "recurrent",
    "slstm_cell._bias_": "bias",
}
_SWAPPED = {"fgate.weight": "igate.weight", "igate.weight": "fgate.weight"}


def _all(values, gradient=False):
    """Parameters, or gradients to them, by our names."""
    ours = dict(_ours(*item, gradient) for item in values.items())
    if "rel_pos_bias.alpha" in ours:
        ours["rel_pos_bias"] = torch.cat([ours.pop(f"rel_pos_bias.{name}") for name in ("alpha", "beta")])
    return ours


def _ours(name, value, gradient=False):
    for theirs, here in NAMES.items():
        name = name.replace(theirs, here)
    if found := re.match(r"filter_fn.implicit_filter.(\d+).(\w+)", name):
        # the last layer makes the channels; activations stand between the others
        last = value.shape[0] == 4
        name = f"implicit_out.{found[2]}" if last else f"implicit.{int(found[1]) // 2}.{found[2]}"
    elif name == "freq":
        value = value[0]
    elif name == "conv1d.weight" and value.ndim == 2:
        value = value.t().unsqueeze(1)
    elif name.endswith("gate.w"):
        name, value = f"{name}eight", value.mT
    elif name.endswith("gate.b"):
        name, value = f"{name}ias", value.flatten()
    elif name in ("outnorm.weight", "group_norm.weight") and not gradient:
        value = 1 + value
    elif name == "bias":
        value = value.view(4, -1)
    elif name in _SWAPPED and value.ndim == 3:
        # the original sLSTM feeds its input gate from what it calls fgate
        name = _SWAPPED[name]
    return name, value


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_original(name):
    case, mixer = CASES[name], MIXERS[name].double()
    mixer.load_state_dict(_all(case["state_dict"]))
    x = case["x"].requires_grad_()
    y = mixer(x)
    # the original's Laplace function has its two constants to six digits
    ratio = 1e-5 if "laplace" in name else 1e-9
    assert_close_ratio(name, y, case["y"], ratio)
    mixer.zero_grad()
    y.backward(case["dy"])
    grads = {"dx": x.grad} | {n: p.grad for n, p in mixer.named_parameters()}
    for key, want in _all(case["grads"], gradient=True).items():
        assert_close_ratio(f"gradient of {key} of {name}", grads[key], want, ratio)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("activation", ["none", "gelu", "half_glu1", "half_glu2", "full_glu"])
def test_s5_is_the_original(discretization, causal, activation):
    case = f"{discretization}_{'causal' if causal else 'both'}."
    given = {n.removeprefix(case): v for n, v in S5_GOLDENS.items() if n.startswith(case)}
    mixer = S5(
        3, d_state=8, n_blocks=1, discretization=discretization, causal=causal, activation=activation
    ).double()  # fmt: skip
    renamed = {"out1.weight": "W1", "out1.bias": "b1", "out2.weight": "W2", "out2.bias": "b2"}
    mixer.load_state_dict({name: given[renamed.get(name, name)] for name in mixer.state_dict()})
    y = mixer(given["x"].unsqueeze(0))[0]
    assert_close_ratio(case, y, given[f"y.{activation}"], 1e-9)


def test_s5_starts_as_the_original():
    """Eigenvectors are unique up to a phase: their projections are compared. Dense layers are Flax's."""
    gate = S5(64, d_state=16).out2
    assert gate is not None and not gate.bias.any()
    assert 0.95 / 8 < gate.weight.std() < 1.05 / 8 and gate.weight.abs().max() < 2.28 / 8
    values, V = _hippo_modes(8)
    assert_close_ratio("modes", torch.view_as_real(values), torch.view_as_real(S5_GOLDENS["hippo_Lambda"]), 1e-9)
    want = S5_GOLDENS["hippo_V"]
    got = torch.einsum("in,jn->nij", V, V.conj())
    assert_close_ratio(
        "vectors", torch.view_as_real(got), torch.view_as_real(torch.einsum("in,jn->nij", want, want.conj())), 1e-9
    )


def test_lru_is_the_recurrence_of_its_paper():
    """The listing of appendix A: a loop over positions in complex numbers."""
    mixer = LRU(3, d_state=4).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    Lambda = torch.exp(torch.complex(-torch.exp(mixer.nu_log), torch.exp(mixer.theta_log)))
    assert_close_ratio("gamma", mixer.gamma_log.exp(), (1 - Lambda.abs() ** 2).sqrt(), 1e-6)
    B, C = (torch.complex(p[..., 0], p[..., 1]) for p in (mixer.B, mixer.C))
    h, want = torch.zeros(2, 4, dtype=torch.complex128), []
    for x_t in x.unbind(1):
        h = Lambda * h + mixer.gamma_log.exp() * (x_t.to(h.dtype) @ B.T)
        want.append((h @ C.T).real + mixer.D * x_t)
    assert_close_ratio("LRU", mixer(x), torch.stack(want, 1), 1e-12)
