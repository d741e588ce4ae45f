"""State tracking: word problems of finite groups, tested beyond the training length."""

from collections.abc import Mapping
from functools import cache
from itertools import permutations
from typing import Literal

import numpy as np

from seqmix.data.sequences.recall import Examples, Recall
from seqmix.data.served import Split, check_positive
from seqmix.errors import ConfigError

Group = Literal["parity", "Z5", "Z60", "S3", "A5", "S5"]


class StateTracking(Recall):
    """Products of elements of a finite group: the target at every position is the product so far.

    ``parity`` is the group of two elements, ``Z5`` and ``Z60`` add modulo 5 and 60, ``S3`` and ``S5`` permute three and
    five things, ``A5`` are the even permutations of five. Elements are drawn uniformly and independently, so that every
    product is equally likely. Test sequences are ``test_length`` long: what was learned has to hold beyond the length
    of training.

    Args:
        group: ``"parity"``, ``"Z5"``, ``"Z60"``, ``"S3"``, ``"A5"`` or ``"S5"``.
        length: positions of a training or validation sequence.
        test_length: positions of a test sequence. Default: four times ``length``.

    Raises:
        ConfigError: if the group is not known, a number is not positive, or a seed is negative.

    Source: Merrill et al., 2024, arXiv:2404.08819; Grazzi et al., 2024, arXiv:2411.12537. Differs from them in: the
    sizes.
    """

    def __init__(
        self,
        group: Group = "S3",
        length: int = 32,
        test_length: int | None = None,
        batch_size: int = 64,
        *,
        n_train: int = 20000,
        n_val: int = 1000,
        n_test: int = 2000,
        data_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        if group not in _GROUPS:
            raise ConfigError(f"there is no group {group!r}; use one of {', '.join(_GROUPS)}")
        test_length = 4 * length if test_length is None else test_length
        check_positive(length=length, test_length=test_length)
        self.products = product_table(group)
        super().__init__(
            f"StateTracking {group}",
            len(self.products),
            max(length, test_length),
            len(self.products),
            batch_size,
            n_train=n_train,
            n_val=n_val,
            n_test=n_test,
            data_seed=data_seed,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )
        self.group, self.length, self.test_length = group, length, test_length

    def _draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        return self._words(generator, n, self.length)

    def _make(self) -> Mapping[Split, Examples]:
        words = self._words(np.random.default_rng([self.data_seed, 2]), self.n_test, self.test_length)
        return {**super()._make(), "test": Examples(*words)}

    def _words(self, generator: np.random.Generator, n: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = generator.integers(len(self.products), size=(n, length))
        targets = tokens.copy()
        for t in range(1, length):
            targets[:, t] = self.products[targets[:, t - 1], tokens[:, t]]
        return tokens, targets


@cache
def product_table(group: Group) -> np.ndarray:
    """Multiplication table of a group by numbers of elements, ``(G, G)``; the first acts first, 0 is the unit."""
    elements = _GROUPS[group]
    if isinstance(elements, int):
        n = np.arange(elements)
        return (n[:, None] + n) % elements
    things, only_even = elements
    kept = [p for p in permutations(range(things)) if not (only_even and _is_odd(p))]
    number = {p: i for i, p in enumerate(kept)}
    return np.array([[number[tuple(q[i] for i in p)] for q in kept] for p in kept])


# cyclic groups by their size; permutations by what they permute, and whether only the even ones count
_GROUPS: dict[str, int | tuple[int, bool]] = {
    "parity": 2,
    "Z5": 5,
    "Z60": 60,
    "S3": (3, False),
    "A5": (5, True),
    "S5": (5, False),
}


def _is_odd(p: tuple[int, ...]) -> bool:
    return sum(p[i] > p[j] for j in range(len(p)) for i in range(j)) % 2 == 1
