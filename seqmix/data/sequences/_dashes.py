"""Dashes of Pathfinder in every direction, drawn once: their light, the room they take, where the next one can end.

After drewlinsley/pathfinder. Places are numbers of a flat canvas: the picture with an edge around that is taken.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

# the drawing is made at twice the size and reduced
FINE = 2
# a pixel is free up to a value of 0.3; two dashes clash where they add up to 1.8
FREE, CLASH = 76, 459


class Size(NamedTuple):
    """Parameters of an image size, in pixels unless said otherwise."""

    border: int
    margins: tuple[int, ...]
    apart: int  # between the starts of the long curves
    radius: float  # of the dots
    length: int  # of a dash
    thickness: float
    continuity: float  # the larger, the straighter
    n_short: int
    contrast: tuple[float, float]  # of the dashes of long and short curves
    tries: int  # pairs of long curves that are grown at once; most get stuck


SIZES = {
    32: Size(1, (1,), 7, 1.5, 2, 0.5, 1.0, 5, (1.5, 2.0), 32),
    64: Size(1, (1,), 12, 2.5, 5, 1.0, 1.8, 5, (0.8, 0.8), 400),
    128: Size(1, (2, 3), 20, 3.0, 5, 1.5, 1.8, 8, (0.9, 0.9), 120),
    256: Size(22, (3,), 27, 5.0, 5, 2.0, 1.8, 7, (1.0, 1.0), 4),
}


class Dashes(NamedTuple):
    """All dashes of one size and margin, P of them: to each place of a circle, then first ones by whole degrees.

    Tables are filled up by repeating an entry, where it changes nothing.
    """

    lines: list[np.ndarray]  # P times (S, S) brightness around the place it is drawn from
    ahead: np.ndarray  # (P,) from the pivot of a dash to that of the next
    heads: np.ndarray  # (P, C) where the next can end, from its pivot
    next: np.ndarray  # (P, C) which dash that is
    weights: np.ndarray  # (P, C) how readily
    disc: np.ndarray  # (M, 1, 1) offsets within the margin
    room_at: np.ndarray  # (P, R) offsets of what it takes: the line and the margin around it
    room: np.ndarray  # (P, R) how much, to 255
    core_at: np.ndarray  # (P, Q) offsets where it can clash
    limit: np.ndarray  # (P, Q) with what
    reach: list[list[int]]  # for the first dashes, by whole degrees from -180: offsets that have to be free
    head: np.ndarray  # (360, 2) from the start of a first dash to its end, down and right
    pivot: np.ndarray  # (360, 2) from its start
    starts: list[np.ndarray]  # for each of them where the first curve can start
    usable: np.ndarray  # those that have such places
    full: int  # width of the canvas
    edge: int  # of that, on each side
    pixels: np.ndarray  # (side * side,) the picture in the canvas
    empty: np.ndarray  # (full * full,) the canvas with its edge and border taken


@lru_cache
def dashes(side: int, margin: int) -> Dashes:
    """The table for a key of ``SIZES`` and one of its margins."""
    size = SIZES[side]
    step = size.length + margin
    # a pivot lies the margin and the rounding outside, a dash ends a step from there, and its margin counts
    edge = step + 2 * margin + 4
    full = side + 2 * edge
    flat = np.array([full, 1])
    around = np.arange(0, 2 * np.pi, 1 / step)
    circle = np.unique(np.floor(step * np.stack([np.sin(around), np.cos(around)], 1)).astype(int), axis=0)
    backward = np.arctan2(circle[:, 0], circle[:, 1])
    degrees = np.arange(-180, 180) * np.pi / 180
    angles = np.concatenate([backward, degrees])  # (P,)
    turn = np.abs(angles[:, None] - backward)
    weights = np.cos(np.minimum(size.continuity * np.minimum(turn, 2 * np.pi - turn), np.pi / 2)) ** 2
    order = np.argsort(-weights, 1, "stable")[:, : (weights > 1e-9).sum(1).max()]  # (P, C)

    # one that follows another is drawn from its end to its start
    toward = np.where(backward < 0, backward + np.pi, backward - np.pi)
    drawn = [_draw(a, size, margin) for a in (*toward, *degrees)]
    lines, rooms = [line for line, _ in drawn], [room for _, room in drawn]
    room_at, room = _sparse([(r, r > 0) for r in rooms], flat)
    core_at, core = _sparse([(r, r >= CLASH - 255) for r in rooms], flat)

    empty, lined = np.full((full, full), 255, np.uint8), np.full((full, full), 255, np.uint8)
    inner = slice(edge, -edge)
    for image, border in ((empty, size.border), (lined, 2 * size.apart)):
        image[edge + border : -edge - border, edge + border : -edge - border] = 0
    pixels = np.arange(full * full).reshape(full, full)[inner, inner].ravel()
    reach = [(_reach(room, step) @ flat).tolist() for room in rooms[len(circle) :]]
    starts = [free(lined.ravel(), offsets, pixels) for offsets in reach]
    head = np.array([_move(side, a, size.length) for a in degrees])
    back = np.array([_move(side, a - np.pi if a >= 0 else a + np.pi, step) for a in degrees])
    return Dashes(
        lines=lines,
        ahead=np.array([_move(side, a, size.length + 2 * margin) for a in angles]) @ flat,
        heads=(circle @ flat)[order],
        next=order,
        weights=np.take_along_axis(weights, order, 1),
        disc=(_disc(margin) @ flat)[:, None, None],
        room_at=room_at,
        room=room,
        core_at=core_at,
        limit=(CLASH - core.astype(int)).astype(np.uint8),
        reach=reach,
        head=head,
        pivot=head + back,
        starts=starts,
        usable=np.flatnonzero([len(s) for s in starts]),
        full=full,
        edge=edge,
        pixels=pixels,
        empty=empty.ravel(),
    )


def free(taken: np.ndarray, reach: list[int], pixels: np.ndarray) -> np.ndarray:
    """Pixels of ``pixels`` whose whole reach is free."""
    # the canvas as the bits of one integer, so that a move is a shift
    bits = int.from_bytes(np.packbits(taken > FREE, bitorder="little").tobytes(), "little")
    hit = 0
    for offset in reach:
        hit |= bits >> offset if offset > 0 else bits << -offset
    seen = np.frombuffer(hit.to_bytes((hit.bit_length() + 7) // 8, "little"), np.uint8)
    return pixels[np.unpackbits(seen, bitorder="little")[pixels] == 0] if reach else pixels[:0]


@lru_cache
def dot(radius: float) -> np.ndarray:
    """A filled circle, as brightness."""
    half = math.ceil(radius) + 3
    y, x = np.mgrid[-FINE * half : FINE * (half + 1), -FINE * half : FINE * (half + 1)]
    return _brightness(np.uint8(255) * (y**2 + x**2 <= (FINE * radius) ** 2), 2 * half + 1)


def _draw(angle: float, size: Size, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """A line from the middle of its square, and the room it takes (bytes)."""
    half = size.length + math.ceil(size.thickness) + margin
    middle = FINE * half
    fine = Image.new("L", (2 * middle + 1, 2 * middle + 1))
    y, x = _move(middle, angle, FINE * size.length)
    width = round(FINE * size.thickness)
    ImageDraw.Draw(fine).line([(middle, middle), (middle + x, middle + y)], fill=255, width=width)
    line, wide = np.asarray(fine), np.pad(np.asarray(fine), FINE * margin)
    shifts = (wide[y : y + len(line), x : x + len(line)] for y, x in _disc(FINE * margin) + FINE * margin)
    return _brightness(line, 2 * half + 1), _reduce(np.maximum.reduce(list(shifts)), 2 * half + 1)


def _reach(room: np.ndarray, step: int) -> np.ndarray:
    """Offsets that have to be free for a first dash; none if it cannot be one.

    The original dilates by these with OpenCV, to which a window wholly outside the picture is minus infinity, and
    gives up where it finds a negative number: so at a corner of the picture one offset has to point back inside.
    """
    # off the middle by one, as in the original
    offsets = np.argwhere(room == 255) - len(room) // 2 + 1
    offsets = offsets[(np.abs(offsets) <= step).all(1)]
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    inside = (offsets * corners[:, None] >= 0).all(2)  # (4, R)
    return offsets if inside.any(axis=-1).all() else offsets[:0]


def _sparse(stamps: list[tuple[np.ndarray, np.ndarray]], flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and values of the chosen pixels of each stamp, as many of all."""
    width = max(int(chosen.sum()) for _, chosen in stamps)
    where = [np.resize(np.flatnonzero(chosen), width) for _, chosen in stamps]
    values = np.stack([stamp.ravel()[at] for (stamp, _), at in zip(stamps, where, strict=True)])
    n = len(stamps[0][0])
    return (np.stack(np.divmod(where, n), -1) - n // 2) @ flat, values


def _disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.argwhere(y**2 + x**2 <= radius**2) - radius


def _brightness(fine: np.ndarray, size: int) -> np.ndarray:
    return _reduce(fine, size) / 255


def _reduce(fine: np.ndarray, size: int) -> np.ndarray:
    """An image of bytes at ``size`` pixels each way."""
    return np.asarray(Image.fromarray(fine).resize((size, size), Image.Resampling.LANCZOS))


def _move(start: int, angle: float, distance: float) -> tuple[int, int]:
    """From a pixel to the one at ``distance``, rounded up as in the original, along with the errors of its sum."""
    down, right = distance * math.sin(angle), distance * math.cos(angle)
    return math.ceil(start + down) - start, math.ceil(start + right) - start
