"""Trigram baseline for causal language models."""

import numpy as np
from torch import Tensor

# tokens per block: the text may be larger than memory
_BLOCK = 1 << 20


def trigram_loss(
    train: Tensor, test: Tensor, document: Tensor, vocab_size: int, count: int | None = None
) -> tuple[float, int]:
    """Negative log-likelihood of ``test`` in nats by an interpolated trigram model, and how many counts that keeps.

    ``p(c | a b) = (n(a b c) + t(a b) p(c | b)) / (n(a b) + t(a b))``, where n counts and t is the number of different
    tokens seen after ``a b``; the same of ``p(c | b)`` and ``p(c)``, and below it all tokens are alike.

    Args:
        train: tokens that are counted ``(T,)``.
        test: tokens that are scored ``(S,)``.
        document: first position of each document of ``test``, then S; its first token is given, not scored.
        vocab_size: number of tokens.
        count: how many tokens of ``test`` are scored, from the first. Default: all.

    Source: Witten and Bell, 1991, method C. Differs from it in: nothing.
    """
    tables = [_table(train, order, vocab_size) for order in range(1, 4)]
    starts, loss, left = set(document[:-1].tolist()), 0.0, len(test) if count is None else count
    for first in range(0, len(test), _BLOCK):
        # the tokens before a block are the context of its first
        back = min(first, 2)
        asked = test[first - back : first + _BLOCK].numpy().astype(np.int64)
        chance = np.full(len(asked), 1 / vocab_size)
        for order, (grams, n, contexts, total, kinds) in enumerate(tables, 1):
            looked = _grams(asked, order, vocab_size)
            n_abc = _look_up(grams, n, looked)
            n_ab, t_ab = (_look_up(contexts, values, looked // vocab_size) for values in (total, kinds))
            seen = n_ab > 0
            chance[seen] = ((n_abc + t_ab * chance) / np.maximum(n_ab + t_ab, 1))[seen]
        scored = np.array([at not in starts for at in range(first, first + len(asked) - back)])
        kept = np.log(chance[back:][scored][: max(left, 0)])
        loss, left = loss - float(kept.sum()), left - len(kept)
    return loss, sum(len(grams) for grams, *_ in tables)


def _table(tokens: Tensor, order: int, vocab_size: int) -> tuple[np.ndarray, ...]:
    """The different sequences of ``order`` tokens, ascending, and their counts; the contexts among them, how often each
    occurs, and how many different tokens follow it."""
    grams, n = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for first in range(0, len(tokens), _BLOCK):
        back = min(first, order - 1)
        found = _grams(tokens[first - back : first + _BLOCK].numpy().astype(np.int64), order, vocab_size)[back:]
        new, counts = np.unique(found, return_counts=True)
        grams, at = np.unique(np.r_[grams, new], return_inverse=True)
        n = np.bincount(at, np.r_[n, counts], len(grams)).astype(np.int64)
    contexts, begin, kinds = np.unique(grams // vocab_size, return_index=True, return_counts=True)
    return grams, n, contexts, np.add.reduceat(n, begin), kinds


def _grams(tokens: np.ndarray, order: int, vocab_size: int) -> np.ndarray:
    """A number for every token with the ``order - 1`` before it; before the first stands token 0."""
    grams = np.zeros(len(tokens), np.int64)
    for back in reversed(range(order)):
        grams = grams * vocab_size + np.concatenate([np.zeros(back, np.int64), tokens[: len(tokens) - back]])
    return grams


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
