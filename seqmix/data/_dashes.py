"""Dashed curves that grow without touching: the drawing of Pathfinder, after drewlinsley/pathfinder (snakes2)."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[int, int]
# dashes of the two long curves and of the short ones
LONG, SHORT = 14, 4
# tries beyond the first: to place a dash, and a short curve
RETRIES, CURVE_RETRIES = 2, 4
# the drawing is made at twice the size and reduced
FINE = 2
# a pixel is free that is taken to no more than this share
FREE = 0.3


class Size(NamedTuple):
    """What differs between the sizes, in pixels of the image unless said otherwise."""

    border: int
    margins: tuple[int, ...]
    apart: int  # between the starts of the long curves
    radius: float  # of the dots
    length: int  # of a dash
    thickness: float
    continuity: float  # the larger, the straighter
    n_short: int
    contrast: tuple[float, float]  # of the dashes of long and short curves


SIZES = {
    32: Size(1, (1,), 7, 1.5, 2, 0.5, 1.0, 5, (1.5, 2.0)),
    64: Size(1, (1,), 12, 2.5, 5, 1.0, 1.8, 5, (0.8, 0.8)),
    128: Size(1, (2, 3), 20, 3.0, 5, 1.5, 1.8, 8, (0.9, 0.9)),
    256: Size(22, (3,), 27, 5.0, 5, 2.0, 1.8, 7, (1.0, 1.0)),
}


class Canvas:
    """One picture in the making: the drawing, and the places that are taken, both with a wide edge around.

    Args:
        side: height and width, in pixels; a key of ``SIZES``.
        seed: seed of the picture.
    """

    def __init__(self, side: int, seed: list[int]):
        self.side, self.size = side, SIZES[side]
        self.random = np.random.default_rng(seed)
        self.pens = _pens(side, int(self.random.choice(self.size.margins)))

    def picture(self) -> tuple[bytes, int]:
        """Pixels, row by row, and the class."""
        label = int(self.random.integers(2))
        while (tips := self._long_curves()) is None:
            pass
        for _ in range(self.size.n_short):
            for _ in range(CURVE_RETRIES + 1):
                if self._short_curve():
                    break
        starts, ends = tips
        start = int(self.random.integers(2))
        for place in (starts[start], ends[start if label else 1 - start]):
            self._paint(self.image, _dot(self.size.radius), place)
        image = self.image[self.pens.inner]
        # as an image file is written: black is 0, the brightest point 255
        return np.rint(image * (255 / image.max())).astype(np.uint8).tobytes(), label

    def _long_curves(self) -> tuple[list[Point], list[Point]] | None:
        """Two curves, grown in turn, on an empty canvas: their starts and ends; None if one got stuck."""
        self.image, self.taken = np.zeros_like(self.pens.empty), self.pens.empty.copy()
        first = self._seed(self.pens.free)
        second = first and self._seed_beside(first.start)
        if not first or not second:
            return None
        curves = [first, second]
        for curve in curves:
            self._paint(self.image, curve.pen.lines[0], curve.start)
        for _ in range(LONG - 1):
            for i, curve in enumerate(curves):
                longer = self._extend(curve, 0)
                if longer is None:
                    return None
                curves[i] = longer
        # as in the original, the last dash of the first curve is not marked as taken
        self._take(curves[1])
        return [first.start, second.start], [curve.end for curve in curves]

    def _short_curve(self) -> bool:
        """Add one, or leave the canvas as it was."""
        before = self.image.copy(), self.taken.copy()
        if np.count_nonzero(self.taken[self.pens.inner] <= FREE) < 0.01 * self.side**2:
            return False
        curve = self._seed(None)
        if curve is not None:
            self._paint(self.image, curve.pen.lines[1], curve.start)
        for _ in range(SHORT - 1):
            curve = curve and self._extend(curve, 1)
        if curve is None:
            self.image, self.taken = before
            return False
        self._take(curve)
        return True

    def _seed(self, free: "tuple[np.ndarray, ...] | None") -> "Curve | None":
        """First dash of a curve at a pixel drawn from those that are free for its direction; None: look for them."""
        for _ in range(RETRIES + 1):
            turn = int(self.random.integers(360))
            pixels = self._free(turn) if free is None else free[turn]
            if not len(pixels):
                return None
            tail = divmod(int(pixels[int(len(pixels) * self.random.random())]), len(self.taken))
            if curve := self._first(tail, turn):
                return curve
        return None

    def _seed_beside(self, start: Point) -> "Curve | None":
        for _ in range(RETRIES + 1):
            turn, around = int(self.random.integers(360)), math.radians(self.random.integers(360))
            y, x = (round(c + self.size.apart * f(around)) for c, f in zip(start, (math.sin, math.cos), strict=True))
            if curve := self._first((y, x), turn):
                return curve
        return None

    def _first(self, tail: Point, turn: int) -> "Curve | None":
        pen = self.pens.seeds[turn]
        head = tail[0] + pen.head[0], tail[1] + pen.head[1]
        pivot = head[0] + pen.behind[0], head[1] + pen.behind[1]
        edge = self.pens.edge
        if not all(edge <= c < edge + self.side for c in (*head, *pivot)):
            return None
        return Curve(tail, tail, pivot, pen)

    def _free(self, turn: int) -> np.ndarray:
        """A free pixel for a first dash, drawn from all; none if there is none."""
        order = self.random.permutation(self.pens.pixels)
        for pixels in np.array_split(order, max(1, len(order) // 128)):
            free = pixels[self.taken.ravel()[pixels[:, None] + self.pens.seeds[turn].reach].max(1) <= FREE]
            if len(free):
                return free[:1]
        return order[:0]

    def _extend(self, curve: "Curve", kind: int) -> "Curve | None":
        """The next dash, more likely ahead than aside, never beyond a right angle nor on what is taken."""
        pens, taken = self.pens, self.taken.ravel()
        y, x = curve.pivot[0] + curve.pen.ahead[0], curve.pivot[1] + curve.pen.ahead[1]
        heads = pens.circle + (y * len(self.taken) + x)  # (K,)
        near = taken[heads[:, None] + pens.disc].max(1)
        sums = (curve.pen.bend * pens.inside[heads] * (1 - near)).cumsum()
        if sums[-1] < 1e-4:
            return None
        for _ in range(RETRIES + 1):
            k = int(np.searchsorted(sums, self.random.random() * sums[-1], "right"))
            head, pen = divmod(int(heads[k]), len(self.taken)), pens.back[k]
            if (self._under(self.taken, pen.room, head) + pen.room).max() < 1.8:
                self._paint(self.image, pen.lines[kind], head)
                self._take(curve)
                return Curve(curve.start, head, (y, x), pen)
        return None

    def _take(self, curve: "Curve") -> None:
        """Mark the last dash and its margin as taken, but for what lies in the edge."""
        room = curve.pen.room * self._under(self.pens.inside.reshape(self.taken.shape), curve.pen.room, curve.end)
        self._paint(self.taken, room, curve.end)

    @staticmethod
    def _under(image: np.ndarray, stamp: np.ndarray, middle: Point) -> np.ndarray:
        half = len(stamp) // 2
        return image[middle[0] - half : middle[0] + half + 1, middle[1] - half : middle[1] + half + 1]

    def _paint(self, image: np.ndarray, stamp: np.ndarray, middle: Point) -> None:
        """Brighten ``image`` where ``stamp`` is brighter."""
        under = self._under(image, stamp, middle)
        np.maximum(under, stamp, out=under)


class Pen(NamedTuple):
    """A dash in one direction, drawn from the middle of its square."""

    lines: tuple[np.ndarray, np.ndarray]  # (S, S) brightness in long and short curves
    room: np.ndarray  # (S, S) the line and the margin around it, 0 to 1
    reach: np.ndarray  # (R,) where the line and its margin lead from a pixel, in pixels of the flat canvas
    head: Point  # from the start of a first dash to its end
    behind: Point  # from there to its pivot
    ahead: Point  # from the pivot of a dash to that of the next
    bend: np.ndarray  # (K,) how readily the next dash ends at each place of the circle


class Pens(NamedTuple):
    """All dashes of one size and margin, and the empty canvas."""

    seeds: list[Pen]  # by whole degrees from -180
    back: list[Pen]  # from each place of the circle towards the pivot
    circle: np.ndarray  # (K,) where the far end of the next dash can be, from its pivot
    disc: np.ndarray  # (M,) offsets within the margin
    edge: int  # width of the edge around the picture
    inner: tuple[slice, slice]  # the picture
    pixels: np.ndarray  # (side * side,) its pixels
    inside: np.ndarray  # 1 in the picture, 0 in the edge
    empty: np.ndarray  # the canvas with its border taken
    free: tuple[np.ndarray, ...]  # for each of ``seeds`` where the first curve can start


class Curve(NamedTuple):
    """A growing curve."""

    start: Point
    end: Point  # where its last dash was drawn from
    pivot: Point
    pen: Pen


@lru_cache
def _pens(side: int, margin: int) -> Pens:
    size = SIZES[side]
    step = size.length + margin
    # no pivot is farther out than two steps, no stamp reaches farther than a third from there
    edge = 3 * (step + margin + math.ceil(size.radius) + 3)
    full = side + 2 * edge
    around = np.arange(0, 2 * np.pi, 1 / step)
    circle = np.unique(np.floor(step * np.stack([np.sin(around), np.cos(around)], 1)).astype(int), axis=0)
    angles = np.arctan2(circle[:, 0], circle[:, 1])
    flat = np.array([full, 1])

    def pen(angle: float, back: bool = False) -> Pen:
        lines, room, reach = _stamps(angle + math.pi * back, size, margin)
        turn = np.abs(angles - angle)
        bend = np.cos(np.minimum(size.continuity * np.minimum(turn, 2 * np.pi - turn), np.pi / 2)) ** 2
        head, behind = _move(angle, size.length), _move(angle + math.pi, step)
        return Pen(lines, room, reach @ flat, head, behind, _move(angle, size.length + 2 * margin), bend)

    seeds = [pen(math.radians(d)) for d in range(-180, 180)]
    back = [pen(float(a), back=True) for a in angles]
    inner = (slice(edge, -edge), slice(edge, -edge))
    inside, empty, lined = np.zeros((full, full)), np.zeros((full, full)), np.zeros((full, full))
    for image, border in ((empty, size.border), (lined, 2 * size.apart)):
        image[inner] = 1
        image[edge + border : -edge - border, edge + border : -edge - border] = 0
    inside[inner] = 1
    pixels = np.flatnonzero(inside)
    free = tuple(pixels[lined.ravel()[pixels[:, None] + pen.reach].max(1) <= FREE] for pen in seeds)
    return Pens(seeds, back, circle @ flat, _disc(margin) @ flat, edge, inner, pixels, inside.ravel(), empty, free)


def _stamps(angle: float, size: Size, margin: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """The lines, the room and the reach of a ``Pen``."""
    half = size.length + math.ceil(size.thickness) + margin
    middle = FINE * half
    fine = Image.new("L", (2 * middle + 1, 2 * middle + 1))
    y, x = _move(angle, FINE * size.length)
    width = round(FINE * size.thickness)
    ImageDraw.Draw(fine).line([(middle, middle), (middle + x, middle + y)], fill=255, width=width)
    wide = np.pad(np.asarray(fine), FINE * margin)
    grown = np.max([np.roll(wide, tuple(shift), (0, 1)) for shift in _disc(FINE * margin)], 0)
    grown = grown[FINE * margin : -FINE * margin, FINE * margin : -FINE * margin]
    line, room = (_reduce(image, 2 * half + 1) for image in (np.asarray(fine), grown))
    # off the middle by one, as in the original
    covered = np.argwhere(room == 1) - half + 1
    within = covered[(np.abs(covered) <= size.length + margin).all(1)]
    return (size.contrast[0] * line, size.contrast[1] * line), room, within


@lru_cache
def _dot(radius: float) -> np.ndarray:
    half = math.ceil(radius) + 3
    y, x = np.mgrid[-FINE * half : FINE * (half + 1), -FINE * half : FINE * (half + 1)]
    return _reduce(np.uint8(255) * (y**2 + x**2 <= (FINE * radius) ** 2), 2 * half + 1)


def _disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.argwhere(y**2 + x**2 <= radius**2) - radius


def _reduce(fine: np.ndarray, size: int) -> np.ndarray:
    """An image of bytes at ``size`` pixels each way, from 0 to 1."""
    return np.asarray(Image.fromarray(fine).resize((size, size), Image.Resampling.LANCZOS)) / 255


def _move(angle: float, distance: float) -> Point:
    """From a pixel to the one at ``distance``, rounded up as in the original."""
    # not 1e-16 above a whole number
    return math.ceil(round(distance * math.sin(angle), 9)), math.ceil(round(distance * math.cos(angle), 9))
