"""Pairs of text for the sentence structural objective of PoNet (Tan et al., 2021, arXiv:2110.02442, sec. 3.3)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.data.loader import Gathered
from seqmix.data.text._token_file import Documents
from seqmix.data.text.tokenizer import Tokenizer
from seqmix.errors import DataError

# share of documents that are cut into chunks of a random, shorter length
_SHORT = 0.1


class Pairs(Gathered):
    """Two parts of a document by number, in order or not, for ``WindowLoader``.

    Documents are cut into chunks of whole sentences, a chunk at a random border into A and B. With equal chances the
    pair is A B (relation 0), B A (1), or A and another chunk (2). Where it is too long, tokens are taken from the
    longer part, each from its begin or its end, until ``[CLS] A [SEP] B [SEP]`` fits. A chunk has at least two
    sentences; a document of one has no pair.

    A batch is ``{"tokens": (B, L), "mask": (B, L), "text": (B, L), "types": (B, L), "segments": (B, L),
    "special": (B, L), "relation": (B,), "index": (B,), "mask_id": ()}``: type 1 is that of the second part and its
    [SEP]; every sentence and every special token is a segment of its own. L is the longest of the batch.

    Args:
        documents: all tokens and where sentences begin, in memory or mapped.
        tokenizer: what made them.
        length: longest pair, in tokens.
        copies: how often the documents are cut and paired, each time with other draws. All draws follow from the
            number of the copy: a pair is the same in every run.

    Raises:
        DataError: if no document has two sentences.

    Source: Tan et al., 2021, arXiv:2110.02442, sec. 3.3 and the code of lxchtan/PoNet. Differs from the original code
    in: a chunk is of one document; lengths of short chunks are drawn per document, not per thousand lines; chunks of
    one sentence, whose B would repeat A there, join the chunk before.
    """

    def __init__(self, documents: Documents, tokenizer: Tokenizer, length: int, *, copies: int):
        self.tokens = documents.tokens
        self.pad, self.cls, self.sep, self.mask_id = tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask
        assert documents.sentences is not None
        self.borders = documents.sentences
        drawn = [_draw(self.borders.numpy(), documents.bounds.numpy(), length - 3, number) for number in range(copies)]
        # begin and length of the first and of the second part, relation
        self.parts = torch.from_numpy(np.concatenate(drawn))  # (n, 5)
        if len(self.parts) == 0:
            raise DataError("no document has two sentences to tell the order of; set data.sentence, or more text")

    def __len__(self) -> int:
        return len(self.parts)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        a_start, a, b_start, b, relation = self.parts[index].unsqueeze(-1).unbind(1)  # (B, 1)
        place = torch.arange(int((a + b).max()) + 3, device=self.device) - 1  # (L,)
        second = place > a
        text = (place >= 0) & (place != a) & (place <= a + b)
        mask = place <= a + b + 1
        at = torch.where(second, b_start + place - a - 1, a_start + place).clamp(0, len(self.tokens) - 1)
        tokens = self.tokens[at].long().masked_fill(place < 0, self.cls).masked_fill(~text & (place >= 0), self.sep)
        # the sentence changes where its number in the corpus does, and at both sides of a special token
        sentence = torch.searchsorted(self.borders, at, right=True).masked_fill(~text, -1)
        begins = (sentence[:, 1:] != sentence[:, :-1]) | ~text[:, 1:] | ~text[:, :-1]
        # padding is one segment
        begins &= mask[:, :-1]
        return {
            "tokens": tokens.masked_fill(~mask, self.pad),
            "mask": mask,
            "text": text,
            "types": (second & mask).long(),
            "segments": F.pad(begins.cumsum(1), (1, 0)),
            "special": mask & ~text,
            "relation": relation.squeeze(-1),
            "index": index,
            "mask_id": torch.tensor(self.mask_id),
        }


def keep_of_first(a: np.ndarray, b: np.ndarray, room: int) -> np.ndarray:
    """Tokens left of the first part when the longer one, the second if they are equal, loses one until both fit."""
    return np.where(a + b > room, np.minimum(a, np.maximum(room - b, (room + 1) // 2)), a)


def _draw(borders: np.ndarray, bounds: np.ndarray, room: int, number: int) -> np.ndarray:
    """The pairs of one copy, ``(n, 5)``."""
    rng = np.random.default_rng(number)
    # sentences i to j of a document are tokens borders[i] to borders[j]; its last border is its [SEP]
    ends = np.searchsorted(borders, bounds)
    short = rng.random(len(ends) - 1) < _SHORT
    target = np.where(short, rng.integers(2, room + 1, len(short)), room)
    runs = [run for d, tokens in enumerate(target) for run in _chunks(borders, ends[d], ends[d + 1] - 1, int(tokens))]
    if not runs:
        return np.empty((0, 5), np.int64)
    first, last = np.array(runs).T
    n = len(first)
    middle = rng.integers(first + 1, last)
    a, b = borders[np.stack([first, middle])], borders[np.stack([middle, last])]  # (2, n)
    draw, other = rng.random(n), (np.arange(n) + rng.integers(1, max(2, n), n)) % n
    relation = np.where(draw < 1 / 3, 1, np.where((draw < 2 / 3) & (n > 1), 2, 0))
    b = np.where(relation == 2, borders[np.stack([first[other], last[other]])], b)
    a, b = np.where(relation == 1, b, a), np.where(relation == 1, a, b)
    long_a, long_b = a[1] - a[0], b[1] - b[0]
    kept_a = keep_of_first(long_a, long_b, room)
    kept_b = np.minimum(long_b, room - kept_a)
    # each removed token is the first or the last with equal probability
    a_start = a[0] + rng.binomial(long_a - kept_a, 0.5)
    b_start = b[0] + rng.binomial(long_b - kept_b, 0.5)
    return np.stack([a_start, kept_a, b_start, kept_b, relation], 1)


def _chunks(borders: np.ndarray, first: int, last: int, target: int) -> list[tuple[int, int]]:
    """Runs of sentences ``first`` to ``last`` that reach ``target`` tokens, the last of the remainder, two at least."""
    runs: list[tuple[int, int]] = []
    while last - first >= 2:
        end = max(first + 2, int(np.searchsorted(borders, borders[first] + target)))
        # a single sentence is not a pair
        end = last if last - end < 2 else end
        runs.append((first, end))
        first = end
    return runs
