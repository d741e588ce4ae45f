"""Pathfinder and Path-X of Long Range Arena, generated: are two dots on one dashed curve?"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

from seqmix.data.sequences._curves import Canvas
from seqmix.data.sequences._generated import generated
from seqmix.data.sequences.labeled import LabeledBytes, LabeledData
from seqmix.data.served import Split, check_positive, parts
from seqmix.errors import ConfigError

Side = Literal[32, 64, 128, 256]
# version of the generator: raise it when a seed gives other pictures, so that old files are not reused
DRAWING = 2


class Pathfinder(LabeledData):
    """Two dots on one dashed curve or on the ends of two, among shorter curves; row by row, 256 gray levels.

    Two curves of 14 dashes start side by side and grow in turn, bending at random and keeping clear of what is drawn;
    curves of 4 dashes are added. One dot marks the start of a curve, the other the end of the same (class 1) or of the
    other one (class 0), equally likely. Image i depends on ``data_seed`` and i alone.

    Args:
        side: height and width, in pixels: 32, 64, 128 (Path-X) or 256; the length is its square.
        n_train: training images.
        n_val: validation images.
        n_test: test images.
        zero_is_pad: mask black pixels, as the code of PoNet and Nyströmformer does.
        root: folder where the generated file is kept. Default: ``./data``.
        workers: processes that generate. Default: as many as there are cores.
        data_seed: seed of the generator.

    Raises:
        ConfigError: if a number is out of range.

    Source: Linsley et al., 2018, arXiv:1805.08315, and drewlinsley/pathfinder; sizes of Tay et al., 2020,
    arXiv:2011.04006, ``curv_contour_length_14``. Differs from the original code in: seeded, in the order drawn; short
    curves are 14 // 3 dashes long at every size, and as many as whole numbers give; no single dashes (its wrapper has
    none, its class has them, the paper does not say). As in the original, a curve begins in 30 of the 360 directions
    only at 32 (95 at 64, nearly all above), so that 1.3 of the 5 short curves find room: see ``_dashes._reach``.
    """

    def __init__(
        self,
        side: Side = 32,
        batch_size: int = 64,
        *,
        n_train: int = 160000,
        n_val: int = 20000,
        n_test: int = 20000,
        zero_is_pad: bool = False,
        root: str | None = None,
        workers: int | None = None,
        data_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        if side not in (32, 64, 128, 256):
            raise ConfigError(f"side = {side} has no parameters; use one of 32, 64, 128, 256")
        name = {128: "Path-X", 256: "Path-256"}.get(side, f"Pathfinder-{side}")
        super().__init__(name, 256, 2, side**2, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(n_train=n_train, n_val=n_val, n_test=n_test, workers=1 if workers is None else workers)
        if data_seed < 0:
            raise ConfigError(f"data_seed must not be negative, got {data_seed}; set data.data_seed to 0 or more")
        self.side: Side = side
        self.zero_is_pad = zero_is_pad
        self.n_train, self.n_val, self.n_test = n_train, n_val, n_test
        self.root, self.workers, self.data_seed = root, workers, data_seed

    def _make(self) -> Mapping[Split, LabeledBytes]:
        sizes: dict[Split, int] = {"train": self.n_train, "val": self.n_val, "test": self.n_test}
        total = sum(sizes.values())
        draw = partial(draw_image, seed=self.data_seed, side=self.side)
        recipe = {"seed": self.data_seed, "side": self.side, "drawing": DRAWING}
        held = generated("pathfinder", recipe, draw, total, root=self.root, workers=self.workers)
        every = LabeledBytes(*held, padded=False, zero_is_pad=self.zero_is_pad)
        return {split: every.take(rows) for split, rows in parts(total, sizes).items()}


def draw_image(number: int, *, seed: int, side: Side) -> tuple[bytes, int]:
    """Image ``number`` of stream ``seed``: its pixels, row by row, and whether one curve joins the dots."""
    return Canvas(side, [seed, number]).picture()
