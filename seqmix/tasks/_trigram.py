"""The trigram model beside causal language models: counts, and no training."""

import numpy as np
from torch import Tensor


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
    given, asked = train.numpy().astype(np.int64), test.numpy().astype(np.int64)
    size = 0
    chance = np.full(len(asked), 1 / vocab_size)
    for order in range(1, 4):
        counted, looked = (_grams(tokens, order, vocab_size) for tokens in (given, asked))
        grams, n = np.unique(counted, return_counts=True)
        size += len(grams)
        contexts, first, kinds = np.unique(grams // vocab_size, return_index=True, return_counts=True)
        total = np.add.reduceat(n, first)
        n_abc = _look_up(grams, n, looked)
        n_ab, t_ab = (_look_up(contexts, values, looked // vocab_size) for values in (total, kinds))
        seen = n_ab > 0
        chance[seen] = ((n_abc + t_ab * chance) / np.maximum(n_ab + t_ab, 1))[seen]
    scored = np.ones(len(asked), bool)
    scored[document[:-1].numpy()] = False
    return -float(np.log(chance[scored][:count]).sum()), size


def _grams(tokens: np.ndarray, order: int, vocab_size: int) -> np.ndarray:
    """A number for every token with the ``order - 1`` before it; before the first stands token 0."""
    grams = np.zeros(len(tokens), np.int64)
    for back in reversed(range(order)):
        grams = grams * vocab_size + np.concatenate([np.zeros(back, np.int64), tokens[: len(tokens) - back]])
    return grams


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
