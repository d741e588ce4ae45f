"""Attention to quantized keys against its quadratic definition, and the updates of the codebook."""

import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seqmix.ops.vq import (
    codebook,
    commitment_loss,
    init_vq_state,
    nearest_code,
    straight_through,
    update_codebook,
    vq_attention,
    vq_attention_resume,
    vq_attention_weights,
)
from seqmix.testing import assert_close_ratio

B, P, V, S = 3, 5, 4, 6


def _inputs(L, window, causal, *, per_query=False, dtype=torch.float64):
    n_bias = window + 1 if causal else 2 * window + 1
    q, k, v = (torch.randn(B, L, n, dtype=dtype) for n in (P, P, V))
    bias = torch.randn(B, L, n_bias, dtype=dtype) if per_query else torch.randn(n_bias, dtype=dtype)
    codes = torch.randn(S, P, dtype=dtype)
    return [t.requires_grad_() for t in (q, k, v, bias)], codes, nearest_code(k, codes)


def _mask(L, side):
    if side is None:
        return None
    mask = torch.arange(L) < torch.tensor([L, L // 2 + 1, 1]).unsqueeze(1)
    return mask if side == "right" else mask.flip(1)


@pytest.mark.parametrize("kind", ["softmax", "laplace"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side, per_query", [(None, False), (None, True), ("right", False), ("left", True)])
@pytest.mark.parametrize("L, window", [(37, 6), (1, 6), (7, 0), (64, 7)])
def test_linear_form_equals_the_quadratic_definition(L, window, causal, kind, side, per_query):
    inputs, codes, z = _inputs(L, window, causal, per_query=per_query)
    weight = torch.randn(B, L, V, dtype=torch.float64)

    def values_and_gradients(impl, block):
        q, k, v, bias = inputs
        y = vq_attention(
            q,
            k,
            v,
            codes,
            z,
            bias,
            window=window,
            causal=causal,
            kind=kind,
            block=block,
            mask=_mask(L, side),
            impl=impl,
        )
        return y, *torch.autograd.grad(y, inputs, weight)

    want = values_and_gradients("reference", None)
    for block in {1, max(window // 2, 1), window or None, 2 * window + 1, L}:
        for got, expected in zip(values_and_gradients("torch", block), want, strict=True):
            # one position attends to itself whatever its score, so some gradients are zero
            assert (got - expected).abs().max() <= 1e-12 * max(1, float(expected.detach().abs().max())), block


@pytest.mark.parametrize("dtype, ratio", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("causal", [True, False])
def test_smaller_types_stay_close(dtype, ratio, causal):
    (q, k, v, bias), codes, z = _inputs(65, 8, causal, dtype=dtype)
    y = vq_attention(q, k, v, codes, z, bias, window=8, causal=causal)
    assert y.dtype == dtype
    q, k, v, bias, codes = (t.double() for t in (q, k, v, bias, codes))
    want = vq_attention(q, k, v, codes, z, bias, window=8, causal=causal, impl="reference")
    assert_close_ratio("vq_attention", y, want, ratio)


@pytest.mark.parametrize("causal", [True, False])
def test_a_codebook_that_holds_every_key_gives_ordinary_attention(causal):
    L, window = 9, 3
    (q, k, v, bias), _, _ = _inputs(L, window, causal)
    codes = k.detach().flatten(0, 1)[torch.randperm(B * L)]
    z = nearest_code(k, codes)
    assert torch.equal(codes[z], k)
    i = torch.arange(L)
    lag = i.unsqueeze(1) - i
    table = torch.zeros(L, L, dtype=torch.float64)
    near = (lag.abs() <= window) & (lag >= (0 if causal else -L))
    table[near] = bias.detach()[(lag if causal else lag + window)[near]]
    if causal:
        table[lag < 0] = float("-inf")
    want = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=table, scale=1.0)
    assert_close_ratio("attention", vq_attention(q, k, v, codes, z, bias, window=window, causal=causal), want, 1e-12)


def test_keys_beyond_the_window_get_no_gradient():
    (q, k, v, bias), codes, z = _inputs(20, 4, True)
    y = vq_attention(q, k, v, codes, z, bias, window=4, causal=True, block=8)
    grad = torch.autograd.grad(y[:, -1].sum(), k)[0]
    assert not grad[:, :15].any()
    assert grad[:, 15:].abs().sum(-1).all()


@pytest.mark.parametrize("kind", ["softmax", "laplace"])
@pytest.mark.parametrize(("window", "sizes"), [(4, [1] * 20), (4, [7, 1, 12]), (0, [3, 17])])
@pytest.mark.parametrize("per_query", [False, True])
def test_parts_equal_the_whole(kind, window, sizes, per_query):
    inputs, codes, z = _inputs(20, window, True, per_query=per_query)
    q, k, v, bias = (t.requires_grad_() for t in inputs)
    state, outputs = init_vq_state(B, window=window, codes=codes, d_value=V), []
    rows = bias.split(sizes, 1) if per_query else [bias] * len(sizes)
    for *part, row in zip(*(t.split(sizes, 1) for t in (q, k, v, z)), rows, strict=True):
        y, state = vq_attention_resume(*part[:3], codes, part[3], row, state, kind=kind)
        outputs.append(y)
    got, want = torch.cat(outputs, 1), vq_attention(q, k, v, codes, z, bias, window=window, causal=True, kind=kind)
    assert_close_ratio("parts", got, want, 1e-12)
    grads = (torch.autograd.grad(y.square().sum(), (q, k, v, bias)) for y in (got, want))
    for name, a, b in zip("qkvb", *grads, strict=True):
        assert_close_ratio(f"gradient of {name}", a, b, 1e-10)


@pytest.mark.parametrize("kind", ["softmax", "laplace"])
def test_the_weights_are_the_matrix_and_the_order_of_codes_does_not_matter(kind):
    (q, k, v, bias), codes, z = _inputs(20, 4, False)
    y = vq_attention(q, k, v, codes, z, bias, window=4, kind=kind)
    weights = vq_attention_weights(q, codes, z, bias, window=4, kind=kind)
    assert_close_ratio("weights", weights @ v, y, 1e-12)
    order = torch.randperm(S)
    again = vq_attention(q, k, v, codes[order], nearest_code(k, codes[order]), bias, window=4, kind=kind)
    assert_close_ratio("order", again, y, 1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_operations_are_linear_and_those_of_the_definition_quadratic(causal):
    def operations(L, impl):
        (q, k, v, bias), codes, z = _inputs(L, 8, causal)
        with FlopCounterMode(display=False) as counter:
            vq_attention(q, k, v, codes, z, bias, window=8, causal=causal, impl=impl)
        return counter.get_total_flops()

    assert operations(512, "torch") == 8 * operations(64, "torch") > 0
    assert operations(512, "reference") == 64 * operations(64, "reference")


def test_nearest_code_takes_the_lowest_of_equals():
    codes = torch.tensor([[1.0, 0], [3, 0], [1, 0], [-1, 0]])
    assert nearest_code(torch.tensor([[0.0, 0], [1, 5], [2.1, 0]]), codes).tolist() == [0, 0, 1]


def test_gradient_goes_straight_through():
    k = torch.randn(2, 4, P, requires_grad=True)
    codes = torch.randn(S, P)
    z = nearest_code(k, codes)
    weight = torch.randn_like(k)
    hard = straight_through(k, codes, z)
    assert torch.equal(hard, codes[z])
    assert torch.equal(torch.autograd.grad(hard, k, weight)[0], weight)


def test_commitment_loss_is_a_mean_over_kept_keys():
    k = torch.randn(2, 4, P, requires_grad=True)
    codes = torch.randn(S, P, requires_grad=True)
    z = nearest_code(k, codes)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    loss = commitment_loss(k, codes, z, mask)
    torch.testing.assert_close(loss, (k - codes[z]).square().sum(-1)[mask].mean())
    loss.backward()
    assert codes.grad is None
    assert not k.grad[~mask].any() and k.grad[mask].all()


@pytest.mark.parametrize("masked", [True, False])
def test_codebook_update_equals_numpy(masked):
    k, sums = torch.randn(2, 7, P, dtype=torch.float64), torch.randn(S, P, dtype=torch.float64)
    counts = torch.rand(S, dtype=torch.float64)
    z = torch.randint(S - 1, (2, 7))
    mask = torch.rand(2, 7) < 0.5 if masked else None
    new_sums, new_counts = 0.9 * sums.numpy(), 0.9 * counts.numpy()
    for b, j in np.ndindex(2, 7):
        if mask is None or mask[b, j]:
            new_sums[z[b, j]] += 0.1 * k[b, j].numpy()
            new_counts[z[b, j]] += 0.1
    if mask is not None:
        k = k.masked_fill(~mask.unsqueeze(-1), float("nan"))
    got_sums, got_counts = update_codebook(sums, counts, k, z, decay=0.9, mask=mask)
    np.testing.assert_allclose(got_sums, new_sums, rtol=1e-12)
    np.testing.assert_allclose(got_counts, new_counts, rtol=1e-12)


def test_dead_codes_start_again_as_different_kept_keys():
    k = torch.randn(1, 9, P)
    mask = torch.arange(9).unsqueeze(0) < 5
    counts = torch.tensor([1.0, 0.01, 1, 0.01, 0.01, 1])
    sums = torch.randn(S, P)
    z = torch.zeros(1, 9, dtype=torch.long)

    def update(seed, mask=mask):
        generator = torch.Generator().manual_seed(seed)
        return update_codebook(sums, counts, k, z, decay=0.5, mask=mask, restart=0.1, generator=generator)

    new_sums, new_counts = update(0)
    dead = torch.tensor([1, 3, 4])
    assert new_counts.tolist() == [0.5 + 2.5, 1, 0.5, 1, 1, 0.5]
    same = (new_sums[dead].unsqueeze(1) == k[0]).all(-1)
    assert same[:, :5].sum() == 3 and same.sum(0).max() == 1
    assert torch.equal(update(0)[0], new_sums)
    assert any(not torch.equal(update(seed)[0], new_sums) for seed in (1, 2, 3))
    nothing_sums, nothing_counts = update(0, torch.zeros_like(mask))
    assert torch.equal(nothing_counts, 0.5 * counts) and torch.equal(nothing_sums, 0.5 * sums)


def test_codes_from_sums_and_counts():
    sums, counts = torch.tensor([[2.0], [1.0]]), torch.tensor([4.0, 0.0])
    assert codebook(sums, counts).flatten().tolist() == [0.5, 100.0]
    # (4 + 1) / (4 + 2) of 4, and (0 + 1) / (4 + 2) of 4
    torch.testing.assert_close(codebook(sums, counts, smoothing=1.0).flatten(), torch.tensor([0.6, 1.5]))


def _rank(rank, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(_update(*(t[rank : rank + 1] for t in _batch())), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _batch():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 8, P, generator=generator), torch.arange(16).view(2, 8) % (S - 1)


def _update(k, z):
    generator = torch.Generator().manual_seed(5)
    return update_codebook(torch.ones(S, P), torch.ones(S), k, z, decay=0.1, restart=0.2, generator=generator)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forks of this process")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_ranks_share_one_codebook(tmp_path):
    torch.multiprocessing.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    sums, counts = _update(*_batch())
    torch.testing.assert_close(first[1], counts)
    # the last code had no keys and starts again, from a draw among fewer keys
    torch.testing.assert_close(first[0][:-1], sums[:-1])
    assert (first[0][-1] == _batch()[0][0]).all(-1).any()
