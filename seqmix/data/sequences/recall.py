"""Generated recall tasks: copying, selective copying, associative recall (MQAR).

The answer never stands in the input at the position that asks for it, nor after it: causal and bidirectional mixers
have to fetch it from the same earlier positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from seqmix.data.loader import Gathered
from seqmix.data.served import Served, Split, check_positive
from seqmix.errors import ConfigError

# special tokens: an empty position, and a position that asks for an answer
BLANK, ASK = 0, 1
# target of positions without an answer, which cross_entropy ignores
UNASKED = -100


class Recall(Served, ABC):
    """Base of recall tasks: ``{"tokens": (B, L), "targets": (B, L)}``, int64, -100 where there is no target.

    The splits are drawn from three independent streams of ``data_seed``.

    Args:
        vocab_size: number of tokens, special ones included.
        max_len: length of every sequence L.
        n_answers: how many answers are possible, all equally likely; one guess is right 1 / n_answers of the time.
        n_train: training sequences.
        n_val: validation sequences.
        n_test: test sequences.
        data_seed: seed of the generator.

    Raises:
        ConfigError: if a number is not positive, or a seed is negative.
    """

    def __init__(
        self,
        name: str,
        vocab_size: int,
        max_len: int,
        n_answers: int,
        batch_size: int,
        *,
        n_train: int,
        n_val: int,
        n_test: int,
        data_seed: int,
        eval_batch_size: int | None,
        seed: int | None,
    ):
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(n_train=n_train, n_val=n_val, n_test=n_test)
        if data_seed < 0:
            raise ConfigError(f"data_seed must not be negative, got {data_seed}; set data.data_seed to 0 or more")
        self.vocab_size, self.max_len, self.chance = vocab_size, max_len, 1 / n_answers
        self.n_train, self.n_val, self.n_test, self.data_seed = n_train, n_val, n_test, data_seed

    @abstractmethod
    def _draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``n`` sequences: tokens and targets, each ``(n, L)``."""

    def _make(self) -> Mapping[Split, "Examples"]:
        sizes: dict[Split, int] = {"train": self.n_train, "val": self.n_val, "test": self.n_test}
        return {
            split: Examples(*self._draw(np.random.default_rng([self.data_seed, i]), n))
            for i, (split, n) in enumerate(sizes.items())
        }


class Copying(Recall):
    """Repeat ``n_copied`` symbols, in order, after a pause.

    ``s1 s2 s3 _ _ _ ? ? ?`` asks for ``s1 s2 s3``. The distance from a symbol to its answer is always the same, so a
    fixed convolution or matrix solves it. Every asking position holds the same token: which symbol it wants follows
    from its place alone.

    Args:
        n_symbols: number of symbols, drawn uniformly and independently.
        n_copied: symbols in a sequence.
        pause: blank positions between the last symbol and the first answer.

    Raises:
        ConfigError: if a number is not positive, or a seed is negative.

    Source: Arjovsky et al., 2016, arXiv:1511.06464, sec. 5.1; Gu and Dao, 2023, arXiv:2312.00752, fig. 2. Differs from
    the first in: only the copied symbols are scored, and every asking position is marked, as in the second.
    """

    def __init__(
        self,
        n_symbols: int = 8,
        n_copied: int = 8,
        pause: int = 16,
        batch_size: int = 64,
        *,
        n_train: int = 20000,
        n_val: int = 1000,
        n_test: int = 2000,
        data_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        check_positive(n_symbols=n_symbols, n_copied=n_copied, pause=pause)
        super().__init__(
            "Copying",
            ASK + 1 + n_symbols,
            2 * n_copied + pause,
            n_symbols,
            batch_size,
            n_train=n_train,
            n_val=n_val,
            n_test=n_test,
            data_seed=data_seed,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )
        self.n_symbols, self.n_copied, self.pause = n_symbols, n_copied, pause

    def _draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        symbols = _symbols(generator, n, self.n_copied, self.n_symbols)
        return _ask(np.pad(symbols, ((0, 0), (0, self.pause)), constant_values=BLANK), symbols)


class SelectiveCopying(Recall):
    """Repeat ``n_copied`` symbols, in order, that stand at random places among blanks.

    ``_ s1 _ _ s2 s3 _ ? ? ?`` asks for ``s1 s2 s3``. As the distances differ from sequence to sequence, a mixer has to
    look at the tokens to know what to keep; a fixed convolution or matrix does not solve it.

    Args:
        n_symbols: number of symbols, drawn uniformly and independently.
        n_copied: symbols in a sequence.
        span: positions over which the symbols are scattered.

    Raises:
        ConfigError: if a number is not positive, a seed is negative, or ``span`` has no room for the symbols.

    Source: Gu and Dao, 2023, arXiv:2312.00752, sec. 3.1 and 4.1.1, with 16 of 16 symbols in a span of 4096. Differs
    from it in: the sizes, and a fixed training set.
    """

    def __init__(
        self,
        n_symbols: int = 8,
        n_copied: int = 8,
        span: int = 24,
        batch_size: int = 64,
        *,
        n_train: int = 20000,
        n_val: int = 1000,
        n_test: int = 2000,
        data_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        check_positive(n_symbols=n_symbols, n_copied=n_copied)
        if span < n_copied:
            raise ConfigError(f"span = {span} has no room for n_copied = {n_copied} symbols; set data.span")
        super().__init__(
            "SelectiveCopying",
            ASK + 1 + n_symbols,
            span + n_copied,
            n_symbols,
            batch_size,
            n_train=n_train,
            n_val=n_val,
            n_test=n_test,
            data_seed=data_seed,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )
        self.n_symbols, self.n_copied, self.span = n_symbols, n_copied, span

    def _draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        symbols = _symbols(generator, n, self.n_copied, self.n_symbols)
        places = np.sort(_distinct(generator, n, self.n_copied, self.span), 1)
        prompt = np.full((n, self.span), BLANK)
        np.put_along_axis(prompt, places, symbols, 1)
        return _ask(prompt, symbols)


class AssociativeRecall(Recall):
    """Multi-query associative recall (MQAR): pairs of key and value, then every key once more, asking for its value.

    ``k1 v1 k2 v2 _ _ k2 _ _ _ k1 _`` asks for ``v2`` at the second ``k2`` and ``v1`` at the second ``k1``; the value
    does not follow. Keys and values of a sequence are drawn without repetition from the lower and upper half of the
    vocabulary, independently, so a key alone says nothing of its value. One that only knows which values there were is
    right 1 / n_pairs of the time. A key comes back after a gap g, in pairs of positions, with probability in proportion
    to ``g^(power - 1)``, no two at one place.

    Args:
        vocab_size: number of tokens; 0 is blank, keys are below ``vocab_size // 2``, values from there on.
        n_pairs: pairs in a sequence.
        length: positions of a sequence, at least ``4 * n_pairs``.
        power: exponent of the gaps; small values ask soon, 1 asks anywhere.

    Raises:
        ConfigError: if a number is not positive, a seed is negative, the pairs do not fit into ``length``, or there are
            fewer keys than pairs.

    Source: Arora et al., 2023, arXiv:2312.04927, app. C, with a vocabulary of 8192. Differs from the original code in:
    positions between the queries stay blank, its option ``random_non_queries=False``; places are dealt to keys at
    random, where the original gives the earlier ones to the earlier pairs more often than not.
    """

    def __init__(
        self,
        vocab_size: int = 64,
        n_pairs: int = 4,
        length: int = 32,
        batch_size: int = 64,
        *,
        power: float = 0.01,
        n_train: int = 20000,
        n_val: int = 1000,
        n_test: int = 2000,
        data_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        check_positive(n_pairs=n_pairs)
        if length < 4 * n_pairs:
            raise ConfigError(
                f"length = {length} has no room for n_pairs = {n_pairs} and their queries; "
                f"set data.length to {4 * n_pairs} or more"
            )
        if vocab_size // 2 - 1 < n_pairs:
            raise ConfigError(
                f"vocab_size = {vocab_size} has fewer keys than n_pairs = {n_pairs}; "
                f"set data.vocab_size to {2 * n_pairs + 2} or more"
            )
        super().__init__(
            "AssociativeRecall",
            vocab_size,
            length,
            vocab_size - vocab_size // 2,
            batch_size,
            n_train=n_train,
            n_val=n_val,
            n_test=n_test,
            data_seed=data_seed,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )
        self.n_pairs, self.length, self.power = n_pairs, length, power

    def _draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        P, first_value = self.n_pairs, self.vocab_size // 2
        keys = BLANK + 1 + _distinct(generator, n, P, first_value - 1)  # (n, P)
        values = first_value + _distinct(generator, n, P, self.vocab_size - first_value)
        log_weight = (self.power - 1) * np.log(np.arange(1, (self.length - 2 * P) // 2 + 1))
        # short gaps are drawn first: without a shuffle the position of a query would tell its pair
        gaps = generator.permuted(_distinct(generator, n, P, len(log_weight), log_weight), axis=1)
        places = 2 * P + 2 * gaps

        tokens, targets = np.full((n, self.length), BLANK), np.full((n, self.length), UNASKED)
        tokens[:, 0 : 2 * P : 2], tokens[:, 1 : 2 * P : 2] = keys, values
        np.put_along_axis(tokens, places, keys, 1)
        np.put_along_axis(targets, places, values, 1)
        return tokens, targets


class Examples(Gathered):
    """Sequences by number, for ``WindowLoader``; kept in 32 bits, widened in the batch.

    Args:
        tokens: inputs ``(n, L)``.
        targets: answers ``(n, L)``.
    """

    def __init__(self, tokens: np.ndarray, targets: np.ndarray):
        self.pair = torch.from_numpy(np.stack([tokens, targets], 1).astype(np.int32))  # (n, 2, L)

    def __len__(self) -> int:
        return len(self.pair)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        tokens, targets = self.pair[index].long().unbind(1)
        return {"tokens": tokens, "targets": targets}


def _symbols(generator: np.random.Generator, n: int, count: int, n_symbols: int) -> np.ndarray:
    return ASK + 1 + generator.integers(n_symbols, size=(n, count))


def _ask(prompt: np.ndarray, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets of ``prompt`` followed by one asking position for each symbol."""
    return (
        np.concatenate([prompt, np.full_like(symbols, ASK)], 1),
        np.concatenate([np.full_like(prompt, UNASKED), symbols], 1),
    )


def _distinct(
    generator: np.random.Generator, n: int, count: int, total: int, log_weight: np.ndarray | float = 0.0
) -> np.ndarray:
    """Draw ``count`` different numbers below ``total`` in each of ``n`` rows, in the order drawn.

    The largest of log-weights with Gumbel noise are draws one after another without replacement (arXiv:1903.06059).
    """
    noisy = log_weight + generator.gumbel(size=(n, total))
    return np.argsort(-noisy, 1)[:, :count]
