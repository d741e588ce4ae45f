"""Dashed curves that grow without touching: a picture of Pathfinder, after drewlinsley/pathfinder (snakes2).

Curves that grow side by side, each on a canvas of its own, are an array ``(3, A)``: the place the last dash of each is
drawn from, its pivot, both counted through all canvases, and which dash it is.
"""

import numpy as np

from seqmix.data.sequences._dashes import FREE, SIZES, dashes, dot, free

# dashes of the two long curves and of the short ones
LONG, SHORT = 14, 4
# tries to place a dash, and a short curve
TRIES, CURVE_TRIES = 3, 5


class Canvas:
    """One picture in the making: the dashes that are drawn, and the places that are taken.

    Args:
        side: height and width, in pixels; a key of ``SIZES``.
        seed: seed of the picture.
    """

    def __init__(self, side: int, seed: list[int]):
        self.side, self.size = side, SIZES[side]
        self.random = np.random.default_rng(seed)
        self.table = dashes(side, int(self.random.choice(self.size.margins)))
        # place, dash and contrast
        self.drawn: list[tuple[int, int, float]] = []
        self.taken = self.table.empty

    def picture(self) -> tuple[bytes, int]:
        """Pixels, row by row, and the class."""
        label = int(self.random.integers(2))
        starts, ends = self._long_curves()
        for _ in range(self.size.n_short):
            for _ in range(CURVE_TRIES):
                if self._short_curve():
                    break
        start = int(self.random.integers(2))
        return self._paint(starts[start], ends[start if label else 1 - start]), label

    def _long_curves(self) -> tuple[list[int], list[int]]:
        """Two curves, grown in turn, on an empty canvas: their starts and ends."""
        area, tries = len(self.table.empty), self.size.tries
        grown = np.empty((LONG, 2, 3, tries), int)
        alive, every = np.empty(0, int), np.empty((tries, area), np.uint8)
        taken = every.ravel()
        # most pairs get stuck: grow many at once and take the first that does not
        while not len(alive):
            every[:] = self.table.empty
            curves = self._beginnings(np.arange(tries) * area)
            for i in range(LONG):
                for j in range(2):
                    if i:
                        curves[j], going = self._extend(taken, curves[j])
                        curves[1 - j] = curves[1 - j][:, going]
                    alive = curves[j][0] // area
                    grown[i, j][:, alive] = curves[j]
        # as in the original, the last dash of the first curve is not marked as taken
        self._take(taken, curves[1])
        best = int(alive[0])
        self.taken = every[best].copy()
        places, kinds = grown[:, :, 0, best] - best * area, grown[:, :, 2, best]
        for place, kind in zip(places.ravel().tolist(), kinds.ravel().tolist(), strict=True):
            self.drawn.append((place, kind, self.size.contrast[0]))
        return places[0].tolist(), places[-1].tolist()

    def _beginnings(self, canvas: np.ndarray) -> list[np.ndarray]:
        """First dashes of two curves on each canvas: one in the middle of the picture, the other beside it."""
        table, n = self.table, len(canvas)
        turns = self.random.choice(table.usable, n), self.random.integers(360, size=n)
        share, around = self.random.random(n), np.radians(self.random.integers(360, size=n))
        start = [table.starts[t][int(s * len(table.starts[t]))] for t, s in zip(turns[0], share, strict=True)]
        beside = np.rint(self.size.apart * np.stack([np.sin(around), np.cos(around)])).astype(int)
        places = canvas + start, canvas + start + table.full * beside[0] + beside[1]
        return [self._first(place, turn) for place, turn in zip(places, turns, strict=True)]

    def _first(self, place: np.ndarray, turn: np.ndarray) -> np.ndarray:
        table = self.table
        pivot = place + table.pivot[turn] @ [table.full, 1]
        return np.stack([place, pivot, turn + len(table.ahead) - 360])

    def _short_curve(self) -> bool:
        """Add one, or leave the canvas as it was."""
        if np.count_nonzero(self.taken[self.table.pixels] <= FREE) < 0.01 * self.side**2:
            return False
        curve, taken, new = self._seed(), self.taken.copy(), []
        while curve.size:
            new.append((int(curve[0, 0]), int(curve[2, 0]), self.size.contrast[1]))
            if len(new) == SHORT:
                self._take(taken, curve)
                self.taken, self.drawn = taken, self.drawn + new
                return True
            curve, _ = self._extend(taken, curve)
        return False

    def _seed(self) -> np.ndarray:
        """First dash of a short curve, at a random free place for its direction, if there is one."""
        table = self.table
        for _ in range(TRIES):
            turn = self.random.integers(360, size=1)
            places = free(self.taken, table.reach[turn[0]], table.pixels)
            if not len(places):
                break
            place = places[self.random.integers(len(places), size=1)]
            start = np.concatenate(np.divmod(place, table.full)) - table.edge
            tips = start + table.head[turn], start + table.pivot[turn]
            if all((tip >= 0).all() and (tip < self.side).all() for tip in tips):
                return self._first(place, turn)
        return np.empty((3, 0), int)

    def _extend(self, taken: np.ndarray, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Extend each curve by a dash on free pixels, more likely ahead than aside; and which of them could be."""
        table, dash = self.table, curves[2]
        pivot = curves[1] + table.ahead[dash]
        heads = pivot[:, None] + table.heads[dash]  # (A, C)
        near = taken[heads + table.disc].max(0)  # (A, C)
        sums = (table.weights[dash] * (255 - near)).cumsum(1)
        # all tries at once: the first one that fits is taken
        drawn = self.random.random((TRIES, len(pivot))) * sums[:, -1]  # (W, A)
        which = (sums > drawn[:, :, None]).argmax(2)
        head, kind = heads[np.arange(len(pivot)), which], table.next[dash, which]
        clear = taken[head[:, :, None] + table.core_at[kind]] < table.limit[kind]  # (W, A, Q)
        fits = clear.all(2) & (sums[:, -1] >= 255e-4)
        going = np.flatnonzero(fits.any(0))
        self._take(taken, curves[:, going])
        chosen = fits.argmax(0)[going], going
        return np.stack([head[chosen], pivot[going], kind[chosen]]), going

    def _take(self, taken: np.ndarray, curves: np.ndarray) -> None:
        """Mark the last dashes and their margins as taken."""
        at = curves[0][:, None] + self.table.room_at[curves[2]]
        taken[at] = np.maximum(taken[at], self.table.room[curves[2]])

    def _paint(self, *dots: int) -> bytes:
        table = self.table
        image = np.zeros((table.full, table.full))
        stamps = [(place, contrast * table.lines[dash]) for place, dash, contrast in self.drawn]
        for place, stamp in stamps + [(place, dot(self.size.radius)) for place in dots]:
            (y, x), half = divmod(place, table.full), len(stamp) // 2
            under = image[y - half : y + half + 1, x - half : x + half + 1]
            np.maximum(under, stamp, out=under)
        image = image.ravel()[table.pixels]
        # as an image file is written: black is 0, the brightest point 255
        return np.rint(image * (255 / image.max())).astype(np.uint8).tobytes()
