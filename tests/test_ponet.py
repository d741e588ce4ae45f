"""PoNet beyond the goldens: pooling operators, segments, padding."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seqmix.errors import ConfigError
from seqmix.mixers.ponet import PoNet, segments_from_ids
from seqmix.ops.pooling import global_attention, local_max, masked_mean, segment_max
from seqmix.testing import check_mask


def _padded(B, L, side):
    mask = torch.arange(L) < torch.tensor([L, L // 2 + 1, 1][:B]).unsqueeze(1)
    return mask if side == "right" else mask.flip(1)


@pytest.mark.parametrize("L", [1, 2, 7, 63, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("side", [None, "right", "left"])
def test_segment_max_equals_the_reference(L, dtype, side):
    mask = None if side is None else _padded(3, L, side)
    kept = torch.ones(3, L, 1, dtype=torch.bool) if mask is None else mask.unsqueeze(-1)
    ids = torch.randint(-2, 5, (3, L))
    uneven = torch.arange(L).clamp(max=L // 2).expand(3, L)
    for segments in (1, 2, 5, 100, ids, ids.sort().values, uneven, torch.zeros_like(ids)):
        x = torch.randn(3, L, 4, dtype=dtype, requires_grad=True)
        weight = torch.randn(3, L, 4, dtype=dtype) * kept
        results = []
        for impl in ("torch", "reference"):
            y = segment_max(x, segments, mask=mask, impl=impl)
            results.append((y, *torch.autograd.grad((y * weight).sum(), x)))
        (got, grad), (want, want_grad) = results
        assert torch.equal(got * kept, want * kept)
        # the sum over a segment in another order; random numbers tie in bfloat16, where sums differ more
        torch.testing.assert_close(grad, want_grad, rtol=0, atol=0.5 if dtype == torch.bfloat16 else 1e-5)


def test_uneven_segments_need_memory_linear_in_the_length():
    """One long segment and many of one position: a plain table of segments would be quadratic."""
    L = 4096
    ids = torch.arange(L).clamp(max=L // 2).unsqueeze(0)
    x = torch.randn(1, L, 1)
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Largest():
        y = segment_max(x, ids, impl="torch")
    assert torch.equal(y[0, : L // 2], x[0, : L // 2])
    assert (y[0, L // 2 :] == x[0, L // 2 :].max()).all()
    assert largest <= 4 * L


def test_local_max_sees_window_positions():
    x = torch.tensor([5.0, 1, 2, 0, 4]).view(1, 5, 1)
    assert local_max(x).flatten().tolist() == [5, 5, 2, 4, 4]
    assert local_max(x, 5).flatten().tolist() == [5, 5, 5, 4, 4]
    assert torch.equal(local_max(x, 1), x)


def test_mean_of_nothing_is_zero():
    x = torch.full((2, 3, 1), float("nan"))
    x[0, 1] = 7
    mask = torch.tensor([[False, True, False], [False] * 3])
    assert masked_mean(x, mask).flatten().tolist() == [7, 0]


def test_parts_ignore_the_order_that_the_paper_says_they_ignore():
    x = torch.randn(1, 12, 4, dtype=torch.float64)
    perm = torch.randperm(12)
    g, p = global_attention(x, x + 1, 2 * x, n_heads=2)
    g_perm, p_perm = global_attention(*((t[:, perm]) for t in (x, x + 1, 2 * x)), n_heads=2)
    torch.testing.assert_close(g, g_perm, rtol=0, atol=1e-12)
    torch.testing.assert_close(p[..., perm], p_perm, rtol=0, atol=1e-12)
    within = torch.cat([torch.randperm(4), 4 + torch.randperm(4), 8 + torch.randperm(4)])
    assert torch.equal(segment_max(x, 4), segment_max(x[:, within], 4))
    far = x.clone()
    far[:, 7:] += 1
    assert torch.equal(local_max(far)[:, :6], local_max(x)[:, :6])
    assert not torch.equal(local_max(far)[:, 6], local_max(x)[:, 6])


def test_one_segment_and_segments_of_one():
    x = torch.randn(2, 9, 3)
    assert torch.equal(segment_max(x, 9), x.amax(1, keepdim=True).expand_as(x))
    assert torch.equal(segment_max(x, 1), x)
    assert torch.equal(segment_max(x, torch.arange(9).expand(2, 9)), x)


@pytest.mark.parametrize(
    "L, n_segments, parts, longest",
    [(2048, 64, 63, 33), (4096, 4096, 2048, 2), (4096, 64, 64, 65), (1024, 32, 32, 33), (1024, 1, 1, 1024)],
)
@pytest.mark.parametrize("max_len", [True, False])
def test_equal_parts_of_the_long_range_arena(L, n_segments, parts, longest, max_len):
    mixer = PoNet(1, L if max_len else None, n_segments=n_segments)
    t = torch.arange(L).view(1, L, 1).float()
    top, count = mixer._segment_max(t, None, None).unique(return_counts=True)
    assert (len(top), int(count.max())) == (parts, longest)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("options", [{}, {"variant": "lra"}, {"segment_len": 4}])
@pytest.mark.parametrize("max_len", [None, 20])
def test_padding_changes_nothing(side, options, max_len):
    """Without max_len every row is cut at its own length."""
    check_mask(lambda d_model, _: PoNet(d_model, max_len, n_heads=2, n_segments=3, **options))
    mixer = PoNet(8, max_len, n_segments=3, **options)
    x, mask = torch.randn(3, 11, 8), _padded(3, 11, side)
    y = mixer(x, mask)
    for row, kept, got in zip(x, mask, y, strict=True):
        torch.testing.assert_close(got[kept], mixer(row[kept].unsqueeze(0))[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("separate_value", [False, True])
@pytest.mark.parametrize("clsgsepg", [False, True])
@pytest.mark.parametrize("variant", ["base", "lra"])
def test_written_out(variant, clsgsepg, separate_value):
    """The formulas one position at a time, with gradients: masks, sentences and parts that the recorded cases lack."""
    L, D, H = 11, 6, 2
    options = {"n_segments": 4, "original_padding": True} if variant == "lra" else {"project": separate_value}
    mixer = PoNet(D, n_heads=H, variant=variant, clsgsepg=clsgsepg, separate_value=separate_value, **options).double()
    x, mask = torch.randn(3, L, D, dtype=torch.float64, requires_grad=True), _padded(3, L, "right")
    special = torch.rand(3, L) < 0.2
    index = torch.arange(L).expand(3, L) // (L // 4 + 1) if variant == "lra" else torch.randint(3, (3, L))
    given = {} if variant == "lra" else {"segment_index": index, "special": special}
    silent = special if clsgsepg and variant == "base" else torch.zeros_like(special)
    maps = list(mixer.children())
    rows = []
    for u, kept, quiet, ids in zip(x, mask, silent, index, strict=True):
        q, k, o, s, p = (m(u) for m in maps[:5])
        v = maps[5](u) if separate_value else k
        heads = []
        for h in range(H):
            own = slice(h * D // H, (h + 1) * D // H)
            asked = q[kept, own].mean(0)
            weights = (k[:, own] @ asked / (D // H) ** 0.5 - 10000.0 * ~kept).softmax(0)
            heads.append(weights @ v[:, own])
        far = torch.cat(heads)
        s = s.masked_fill(~kept.unsqueeze(1), -10000)
        p = p.masked_fill((~kept | quiet).unsqueeze(1), -10000)
        out = []
        for t in range(L):
            part, near = s[ids == ids[t]].amax(0), p[max(t - 1, 0) : t + 2].amax(0)
            part, near = (0 * part, 0 * near) if quiet[t] else (part, near)
            out.append(((far + part) * o[t] + near) * kept[t])
        y = torch.stack(out)
        rows.append(y if mixer.ff is None else mixer.ff(y))
    want, y = torch.stack(rows), mixer(x, mask, **given)
    if variant == "base":
        want = want * mask.unsqueeze(-1)
    torch.testing.assert_close(y, want, rtol=1e-12, atol=1e-12)
    g, inputs = torch.randn_like(y), [x, *mixer.parameters()]
    for got, grad in zip(*(torch.autograd.grad(t, inputs, g) for t in (y, want)), strict=True):
        torch.testing.assert_close(got, grad, rtol=1e-10, atol=1e-10)


def test_sentences_and_special_tokens_survive_padding():
    mixer = PoNet(8, n_heads=2).double()
    x = torch.randn(1, 10, 8, dtype=torch.float64)
    ids = torch.tensor([[1, 9, 9, 2, 9, 9, 9, 2, 0, 0]])
    index, special = segments_from_ids(ids, cls_id=1, sep_id=2)
    assert index.tolist() == [[0, 1, 1, 2, 3, 3, 3, 4, 5, 5]]
    y = mixer(x, ids > 0, segment_index=index, special=special)
    alone = mixer(x[:, :8], segment_index=index[:, :8], special=special[:, :8])
    torch.testing.assert_close(y[:, :8], alone, rtol=0, atol=1e-12)
    assert not y[:, 8:].any()
    # a special token neither gives to a maximum nor takes from it
    changed = x.clone()
    changed[:, 3] = 100
    other = mixer(changed, ids > 0, segment_index=torch.zeros_like(index), special=special)
    leaky = PoNet(8, n_heads=2, clsgsepg=False).double()
    leaky.load_state_dict(mixer.state_dict())
    assert not torch.equal(leaky(changed, segment_index=torch.zeros_like(index), special=special), other)


def test_ids_that_begin_with_text_stay_in_range():
    index, special = segments_from_ids(torch.tensor([[9, 9, 2, 9]]), cls_id=1, sep_id=2)
    assert index.tolist() == [[0, 0, 0, 1]]
    assert special.tolist() == [[False, False, True, False]]


def test_original_padding_is_that_of_the_arena_code():
    mixer = PoNet(8, n_heads=2, variant="lra", n_segments=2, original_padding=True)
    ours = PoNet(8, 10, n_heads=2, variant="lra", n_segments=2)
    ours.load_state_dict(mixer.state_dict())
    x, mask = torch.randn(3, 10, 8), _padded(3, 10, "right")
    y = mixer(x, mask)
    torch.testing.assert_close(y[mask], ours(x, mask)[mask])
    torch.testing.assert_close(y[~mask], mixer.ff.bias.expand_as(y[~mask]))


def test_a_value_projection_of_its_own_replaces_the_keys_in_the_sum():
    tied, own = PoNet(8, n_heads=2), PoNet(8, n_heads=2, separate_value=True)
    own.load_state_dict({**own.state_dict(), **tied.state_dict()})
    x = torch.randn(2, 9, 8)
    assert not torch.allclose(own(x), tied(x))
    own.dense_v.load_state_dict(tied.dense_k.state_dict())
    torch.testing.assert_close(own(x), tied(x))


def test_operations_grow_with_the_length_exactly():
    def operations(L):
        with FlopCounterMode(display=False) as counter:
            PoNet(8, n_heads=2, segment_len=8)(torch.randn(1, L, 8))
        return counter.get_total_flops()

    assert operations(256) == 4 * operations(64) > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_heads": 3}, "d_model = 8 is not a multiple of n_heads = 3; change one of them"),
        ({"variant": "big"}, "there is no variant 'big' of PoNet; use 'base' or 'lra'"),
        ({"segment_len": 0}, "segment_len = 0 is below 1; use segment_len=1 or more"),
        ({"n_segments": 0}, "n_segments = 0 is below 1; use n_segments=1 or more"),
        ({"original_padding": True}, "original_padding = True says what the LRA code does; set variant='lra' too"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ConfigError, match="^" + message):
        PoNet(8, **options)
