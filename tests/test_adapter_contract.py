"""Adapters over every sequence mixer, mixers born on a grid, and the scan orders written out by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import Attention, Dense, Identity, Mixer, Pool, Rand, SepConv, list_mixers, mixer_facts
from seqmix.testing import check_grid_mixer
from seqmix.testing.grid_mixer import takes_any_grid
from seqmix.vision import (
    SS2D,
    AFF2d,
    Attention2d,
    Axial,
    CrossScan,
    Dense2d,
    FFNifiedAttention2d,
    Identity2d,
    Inception2d,
    Pool2d,
    Raft2d,
    Rand2d,
    Raster,
    SepConv2d,
)
from seqmix.vision.adapters import cross_merge, cross_scan

D, GRID = 8, (3, 4)
BORN_2D = [
    Identity2d,
    Pool2d,
    partial(Pool2d, pool_size=5),
    SepConv2d,
    partial(Attention2d, head_dim=4),
    partial(AFF2d, n_blocks=2),
    partial(Inception2d, head_dim=2, stride=2),
    SS2D,
    FFNifiedAttention2d,
]
FIXED_GRID = [Rand2d, Dense2d, Raft2d]
CASES = [
    pytest.param(partial(adapter, mixer=partial(mixer_facts(name).cls, **mixer_facts(name).examples[0])), id=label)
    for adapter in (Raster, Axial, CrossScan, partial(CrossScan, merge="mean"))
    for name in list_mixers()
    if (label := f"{getattr(adapter, '__name__', 'Mean')}-{name}")
    # the mean differs by a factor only: one mixer tells
    and (isinstance(adapter, type) or name == "Mamba")
]


def _build(factory, dtype=torch.float64):
    """Parameters off their initial values, since zeros and ones hide mistakes."""
    mixer = factory(D, GRID).eval()
    with torch.no_grad():
        for p in mixer.parameters():
            if p.requires_grad and p.is_floating_point():
                p += 0.1 * torch.randn_like(p)
    return mixer.to(dtype)


@pytest.mark.parametrize("factory", [*CASES, *BORN_2D, *FIXED_GRID])
def test_contract(factory):
    check_grid_mixer(factory, d_model=D, grid=GRID)


@pytest.mark.parametrize("factory", FIXED_GRID)
def test_fixed_grid_under_a_mask(factory):
    """A mask changes what is kept; a constant stays itself under random mixing, however many tokens are left."""
    assert not takes_any_grid(factory) and takes_any_grid(Pool2d)
    mixer = _build(factory)
    mask = torch.rand(2, *GRID) > 0.4
    x = torch.randn(2, *GRID, D, dtype=torch.float64)
    assert (mixer(x, mask) - mixer(x))[mask].abs().max() > 1e-3
    if factory is Rand2d:
        constant = torch.full_like(x, 3.0)
        torch.testing.assert_close(mixer(constant, mask)[mask], constant[mask], rtol=1e-6, atol=1e-6)
        assert not mixer.random_matrix.requires_grad


@pytest.mark.parametrize("factory", [Rand2d, Dense2d])
def test_another_grid_is_refused(factory):
    with pytest.raises(ValueError, match=r"a grid of 2 x 4, \w+ was built for 3 x 4; resize the images"):
        _build(factory)(torch.randn(2, 2, 4, D, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"grid is needed: \w+ stores something per token"):
        factory(D)


class Seen(Mixer):
    """Identity that remembers what it was given."""

    def __init__(self, d_model, max_len=None):
        super().__init__()
        self.max_len = max_len

    def forward(self, x, mask=None):
        self.seen, self.mask = x[..., 0].tolist(), mask
        return x


BY_HAND = {"rows": [0, 1, 2, 3, 4, 5], "columns": [0, 3, 1, 4, 2, 5]}
X = torch.arange(6.0).view(1, 2, 3, 1)


def test_scan_orders_by_hand():
    raster = Raster(1, (2, 3), mixer=Seen)
    assert torch.equal(raster(X), X)
    assert raster.mixer.seen == [BY_HAND["rows"]] and raster.mixer.max_len == 6
    cross = CrossScan(1, (2, 3), mixer=Seen)
    assert torch.equal(cross(X), 4 * X)
    orders = [BY_HAND["rows"], BY_HAND["columns"], BY_HAND["rows"][::-1], BY_HAND["columns"][::-1]]
    assert [m.seen[0] for m in cross.mixers] == orders and {m.max_len for m in cross.mixers} == {6}
    assert torch.equal(CrossScan(1, mixer=Seen, merge="mean")(X), X)
    axial = Axial(1, (2, 3), mixer=Seen)
    assert torch.equal(axial(X), X)
    assert axial.rows.seen == [[0, 1, 2], [3, 4, 5]] and axial.columns.seen == [[0, 3], [1, 4], [2, 5]]
    assert (axial.rows.max_len, axial.columns.max_len) == (3, 2)


def test_scan_orders_skip_the_padding():
    mask = torch.tensor([[[True, True, False], [True, True, False]]])
    cross = CrossScan(1, mixer=Seen)
    cross(X, mask)
    orders = [[0, 1, 3, 4], [0, 3, 1, 4], [4, 3, 1, 0], [4, 1, 3, 0]]
    assert [m.seen[0] for m in cross.mixers] == [[*order, 0, 0] for order in orders]
    assert all(m.mask.tolist() == [[True] * 4 + [False] * 2] for m in cross.mixers)


def test_merge_undoes_scan():
    x = torch.randn(2, 7, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(cross_merge(cross_scan(x), 7, 3), 4 * x)


def test_errors():
    for factory in (Raster, Axial, CrossScan):
        with pytest.raises(ConfigError, match="max_len is needed: Dense"):
            factory(D, mixer=Dense)
        for wrong, message in (
            (torch.ones(1, 2, 3), "mask should be bool"),
            (torch.ones(1, 2, 2).bool(), r"\(1, 2, 3\)"),
        ):
            with pytest.raises(ValueError, match=message):
                factory(1, mixer=Identity)(X, wrong)
    with pytest.raises(ConfigError, match="merge = 'max' is not known; use one of sum, mean"):
        CrossScan(D, mixer=Identity, merge="max")
    with pytest.raises(ConfigError, match="d_model = 48 is not a multiple of head_dim = 32"):
        Attention2d(48)
    with pytest.raises(ConfigError, match="pool_size = 2 has no middle"):
        Pool2d(D, pool_size=2)


@pytest.mark.parametrize("L", [1, 2, 7, 12])
def test_height_of_one_is_a_sequence(L):
    """The mixers of the package on L tokens and those born on a grid on 1 x L, padding at the end included."""
    pairs = [(Identity(D), Identity2d(D)), (Pool(D), Pool2d(D)), (Pool(D, pool_size=5), Pool2d(D, pool_size=5))]
    conv, conv2d = SepConv(D), SepConv2d(D)
    kernel = torch.randn_like(conv2d.dwconv.weight)
    kernel[:, :, 3] = conv.dwconv.weight.detach()
    state = {"pwconv1.weight": conv.pwconv1.weight, "pwconv2.weight": conv.pwconv2.weight, "dwconv.weight": kernel}
    conv2d.load_state_dict({**state, "act1.scale": conv.scale.view(1), "act1.bias": conv.bias.view(1)})
    attention, attention2d = Attention(D, n_heads=2), Attention2d(D, head_dim=4)
    attention2d.load_state_dict(attention.state_dict())
    rand, rand2d = Rand(D, L), Rand2d(D, (1, L))
    rand2d.load_state_dict(rand.state_dict())
    x = torch.randn(3, L, D)
    for mask in (None, torch.arange(L) < torch.tensor([[L], [L // 2 + 1], [0]])):
        for sequence, grid in [*pairs, (conv, conv2d), (attention, attention2d), (rand, rand2d)]:
            got = grid(x.unsqueeze(1), None if mask is None else mask.unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(got, sequence(x, mask), rtol=1e-5, atol=1e-5)


def test_raster_attention_is_attention2d():
    raster, born = Raster(D, mixer=partial(Attention, n_heads=2)), Attention2d(D, head_dim=4)
    born.load_state_dict(raster.mixer.state_dict())
    x = torch.randn(2, 5, 3, D)
    torch.testing.assert_close(born(x), raster(x), rtol=1e-5, atol=1e-5)
    # no positions: tokens in another order come out in that order
    order = torch.randperm(15)
    shuffled = x.flatten(1, 2)[:, order].view(x.shape)
    torch.testing.assert_close(born(shuffled).flatten(1, 2), born(x).flatten(1, 2)[:, order], rtol=1e-5, atol=1e-5)


def test_pool_is_a_box_filter_over_what_is_there():
    x = torch.randn(2, 5, 4, D)
    box = torch.ones(D, 1, 3, 3)
    image = x.permute(0, 3, 1, 2)
    total = F.conv2d(image, box, padding=1, groups=D)
    count = F.conv2d(torch.ones_like(image), box, padding=1, groups=D)
    torch.testing.assert_close(Pool2d(D)(x), (total / count - image).permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
    assert Pool2d(D)(torch.full_like(x, 2.5)).abs().max() < 1e-6


def test_adapters_have_no_parameters_of_their_own():
    one = sum(p.numel() for p in SepConv(D).parameters())
    sizes = {a: sum(p.numel() for p in a(D, mixer=SepConv).parameters()) for a in (Raster, Axial, CrossScan)}
    assert sizes == {Raster: one, Axial: 2 * one, CrossScan: 4 * one}
    assert isinstance(Raster(D, mixer=SepConv), nn.Module)
