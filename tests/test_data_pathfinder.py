"""Pathfinder: the dots decide the class, dashes keep clear, pictures are those of their seed and look like a sample."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from seqmix.data import Pathfinder, _dashes
from seqmix.data._dashes import SIZES, Canvas
from seqmix.data.pathfinder import draw_image
from seqmix.errors import ConfigError


def _pictures(n, side=32, seed=0):
    drawn = [draw_image(i, seed=seed, side=side) for i in range(n)]
    pixels = np.stack([np.frombuffer(p, np.uint8).reshape(side, side) for p, _ in drawn])
    return pixels, np.array([label for _, label in drawn])


@pytest.mark.parametrize("side", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_the_class_is_what_joins_the_dots(side):
    """Followed dash by dash: the label says whether start and end that are marked belong to one curve."""
    seen = set()
    for i in range(6):
        canvas = Canvas(side, [1, i])
        marked = []
        paint = canvas._paint

        def spy(image, stamp, middle, paint=paint, canvas=canvas, marked=marked):
            if stamp is _dashes._dot(SIZES[canvas.side].radius):
                marked.append(middle)
            paint(image, stamp, middle)

        tips = []
        grow = canvas._long_curves

        def curves(grow=grow, tips=tips):
            found = grow()
            tips[:] = [found]
            return found

        canvas._paint, canvas._long_curves = spy, curves
        pixels, label = canvas.picture()
        (starts, ends), (start, end) = tips[0], marked
        assert len(pixels) == side**2 and max(pixels) == 255 and min(pixels) == 0
        assert start in starts and end in ends
        assert (starts.index(start) == ends.index(end)) == label
        assert math.dist(*starts) == pytest.approx(SIZES[side].apart, abs=1)
        seen.add(label)
    assert seen == {0, 1}


def test_dashes_keep_clear_of_one_another():
    """No dash lies on another by the rule of the original: where one is taken, the next is below 0.8."""
    for i in range(4):
        canvas = Canvas(32, [2, i])
        extend = canvas._extend
        steps, pens = [], canvas.pens

        def checked(curve, kind, extend=extend, canvas=canvas, steps=steps, pens=pens):
            before = canvas.taken.copy()
            longer = extend(curve, kind)
            if longer is not None:
                under = canvas._under(before, longer.pen.room, longer.end)
                assert (under + longer.pen.room).max() < 1.8
                y, x = (c - canvas.pens.edge for c in longer.end)
                assert 0 <= y < 32 and 0 <= x < 32
                # at most a right angle away from the direction of the dash before
                steps.append(curve.pen.bend[next(k for k, pen in enumerate(pens.back) if pen is longer.pen)] > 1e-9)
            return longer

        canvas._extend = checked
        canvas.picture()
        assert len(steps) >= 2 * 13 and all(steps)


def test_pictures_are_those_of_their_seed(tmp_path):
    first, again, other = (_pictures(3, seed=s)[0] for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    data = Pathfinder(32, 4, n_train=5, n_val=2, n_test=3, root=str(tmp_path), workers=1)
    assert (data.name, data.vocab_size, data.n_classes, data.max_len) == ("Pathfinder-32", 256, 2, 1024)
    data.setup()
    batch = data._splits["train"].gather(torch.arange(3))
    assert batch.keys() == {"tokens", "labels"} and batch["tokens"].shape == (3, 1024)
    assert np.array_equal(batch["tokens"].numpy().reshape(3, 32, 32), first)
    padded = Pathfinder(32, n_train=5, n_val=2, n_test=3, root=str(tmp_path), zero_is_pad=True)
    batch = next(iter(padded.val_dataloader()))
    assert torch.equal(batch["mask"], batch["tokens"] != 0)
    assert len(list((tmp_path / "pathfinder").iterdir())) == 1


@pytest.mark.skipif("SEQMIX_DATA" not in os.environ, reason="needs lra_pathfinder32_sample in $SEQMIX_DATA")
def test_statistics_of_a_sample():
    """Brightness and layout beside pictures of a public re-implementation with the same parameters.

    It does not cut off what the filter overshoots, so its dots are brighter than its dashes, which are dimmer than
    ours, and it places fewer of the short curves: amounts are compared loosely, places closely.
    """
    file = Path(os.environ["SEQMIX_DATA"]) / "lra_pathfinder32_sample" / "pathfinder32_hard.npz"
    theirs = np.load(file)["images"]
    ours, labels = _pictures(60)
    assert 0.3 < labels.mean() < 0.7
    assert 1 < ours.mean() / theirs.mean() < 1.7
    assert 1 < (ours > 20).mean() / (theirs > 20).mean() < 1.5
    for axis in (1, 2):
        quarters = [p.mean((0, axis)).reshape(4, 8).mean(1) / p.mean() for p in (theirs, ours)]
        np.testing.assert_allclose(*quarters, atol=0.2)
        edges = [p.mean((0, axis))[[0, 1, -2, -1]].max() / p.mean() for p in (theirs, ours)]
        assert max(edges) < 0.3


def test_reach_and_room_of_a_dash():
    """To the right, 2 pixels long: as Pillow draws and reduces it, and one off the middle as in the original."""
    pens = _dashes._pens(32, 1)
    pen = pens.seeds[180]
    full = len(pens.empty)
    assert [divmod(int(r) - full, full) for r in pen.reach] == [(0, 1), (0, 2), (0, 3)]
    assert (pen.head, pen.behind, pen.ahead) == ((0, 2), (0, -3), (0, 4))
    np.testing.assert_allclose(pen.room[4, 3:8], [0.61, 1, 1, 1, 0.72], atol=0.005)
    np.testing.assert_allclose(pen.lines[0][4, 4:7] / 1.5, [0.4, 0.529, 0.455], atol=0.001)
    assert pen.lines[0][3].max() == 0


def test_sizes():
    for side, length in ((32, 1024), (64, 4096), (128, 16384), (256, 65536)):
        assert Pathfinder(side).max_len == length
    assert Pathfinder(128).name == "Path-X"
    with pytest.raises(ConfigError, match=r"^side = 48 has no parameters; use one of 32, 64, 128, 256$"):
        Pathfinder(48)


@pytest.mark.slow
@pytest.mark.parametrize("side", [128, 256])
def test_large_pictures(side):
    pictures, _ = _pictures(2, side)
    border = SIZES[side].border
    assert pictures.shape == (2, side, side) and (pictures > 127).sum((1, 2)).min() > 300
    assert (pictures[:, : border // 2] > 127).sum() == 0
