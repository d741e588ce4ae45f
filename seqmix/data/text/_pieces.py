"""Pieces of documents by number, the examples of causal and masked language models."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.data.loader import Gathered
from seqmix.data.text._token_file import Documents
from seqmix.data.text.tokenizer import Tokenizer

Objective = Literal["causal", "masked", "pairs"]
Packing = Literal["padded", "documents"]


class Pieces(Gathered):
    """Pieces of documents by number, for ``WindowLoader``; no piece has text of two documents.

    Causal: ``{"tokens": (B, L), "targets": (B, L), "bytes": (B,)}``, each token of a document once a target, -100 where
    shorter pieces end. Masked: ``{"tokens": (B, L), "mask": (B, L), "text": (B, L), "special": (B, L), "index": (B,),
    "mask_id": ()}``, each piece between [CLS] and [SEP], which are ``special``, ``text`` True where a token is of it. L
    is the longest of the batch.

    Packed, the B pieces lie one after another in one row ``(1, L)``, without padding and mask, L is the sum of their
    lengths, and ``"cu_seqlens": (B + 1,)`` says where each begins and where the last ends.

    Args:
        documents: all tokens, in memory or mapped.
        tokenizer: what made them.
        length: longest piece, in tokens.
        causal: for causal language models, not for masked ones.
        packed: lay the pieces of a batch one after another.
    """

    def __init__(self, documents: Documents, tokenizer: Tokenizer, length: int, *, causal: bool, packed: bool):
        self.tokens, self.causal, self.packed = documents.tokens, causal, packed
        self.pad, self.cls, self.sep, self.mask_id = tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask
        # the last token of a document is not an input; a masked piece has two special tokens around it
        self.step, outside = (length, 1) if causal else (length - 2, 2)
        self.begin, self.sizes = documents.bounds[:-1] + (0 if causal else 1), documents.n_bytes
        self.inside = documents.bounds.diff() - outside
        #: pieces up to the end of each document; nothing is kept of a piece
        self.ends = (-(-self.inside // self.step)).cumsum(0)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        document = torch.searchsorted(self.ends, index, right=True)
        inside = self.inside[document]
        before = self.step * (index - self.ends[document] - (-inside // self.step))
        start, length = self.begin[document] + before, (inside - before).clamp(max=self.step)
        taken = length if self.causal else length + 2
        batch: dict[str, Tensor] = {}
        if self.packed:
            bounds = F.pad(taken.cumsum(0), (1, 0))  # (B + 1,)
            batch["cu_seqlens"] = bounds
            first, start, length = (t.repeat_interleave(taken).unsqueeze(0) for t in (bounds[:-1], start, length))
            place = torch.arange(first.shape[1], device=self.device) - first  # (1, L)
        else:
            start, length = start.unsqueeze(-1), length.unsqueeze(-1)
            place = torch.arange(int(taken.max()), device=self.device)  # (L,)
        if self.causal:
            kept = place < length
            batch["tokens"] = self._at(start + place).masked_fill(~kept, self.pad)
            batch["targets"] = self._at(start + place + 1).masked_fill(~kept, -100)
            # a document's bytes by the share of its tokens up to the end of a piece: exact over documents, whatever the
            # tokens, and over every piece where tokens are bytes
            sizes = self.sizes[document]
            first, last = (-(-end * sizes // inside) for end in (before, (before + self.step).minimum(inside)))
            batch["bytes"] = last - first
            return batch
        # [CLS] stands one place before the text, [SEP] one after it
        place = place - 1
        tokens = self._at(start + place).masked_fill(place < 0, self.cls).masked_fill(place == length, self.sep)
        mask = place <= length
        batch["tokens"] = tokens.masked_fill(~mask, self.pad)
        batch["text"] = (place >= 0) & (place < length)
        batch["special"] = mask & ~batch["text"]
        batch["index"], batch["mask_id"] = index, torch.tensor(self.mask_id)
        # a packed row has no padding, and mixers take either bounds or a mask
        return batch if self.packed else {**batch, "mask": mask}

    def _at(self, place: Tensor) -> Tensor:
        return self.tokens[place.clamp(0, len(self.tokens) - 1)].long()
