"""EncoderClassifier: a classifier of series with any encoder."""

from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import check_choice
from seqmix.models.dropout import Dropout
from seqmix.models.pooling import How, Pooling
from seqmix.models.series_classifier import SeriesClassifier, register_classifier
from seqmix.models.series_encoder import SeriesEncoderFactory
from seqmix.models.time_encoder import TimeEncoder


@register_classifier(paper="arXiv:2210.02186", encoder=partial(TimeEncoder, d_model=8, n_layers=1))
class EncoderClassifier(SeriesClassifier):
    """Classifier of series with any encoder: GELU on the tokens, then a linear layer on all or pooled tokens.

    The encoder is built for the longest series; shorter ones are padded at the end and masked. In results it has the
    name of the encoder.

    Shapes: ``(B, L, C) -> (B, n_classes)``. Cost: that of the encoder, and O(N D n_classes) for ``flatten``.

    Args:
        encoder: factory of the encoder.
        pool: pooling of the tokens: ``flatten`` keeps all of them; ``mean``, ``max``, ``last``, or
            ``attention``, a mean with learned weights.
        dropout: dropout probability on the tokens.

    Raises:
        ConfigError: if ``pool`` is not known or an option is out of range.

    Source: Wu et al., 2023, arXiv:2210.02186, as in thuml/Time-Series-Library. Differs from the original code in:
    pooling; GELU for all encoders, which the original leaves out for PatchTST.
    """

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        max_len: int,
        *,
        encoder: SeriesEncoderFactory = TimeEncoder,
        pool: Literal["flatten"] | How = "flatten",
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, n_classes, max_len)
        check_choice("pool", pool, ("flatten", "mean", "max", "last", "attention"))
        self.encoder = encoder(n_channels, max_len)
        D = self.encoder.d_model
        self.drop = nn.Sequential(nn.GELU(), Dropout(dropout))
        self.pool = None if pool == "flatten" else Pooling(D, pool)
        self.head = nn.Linear(self.encoder.n_tokens * D if self.pool is None else D, n_classes)

    @property
    def label(self) -> str:
        """Name of the encoder in results."""
        return self.encoder.label

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        missing = self.max_len - x.shape[1]
        if missing:
            mask = x.new_ones(x.shape[:2]).bool() if mask is None else mask
            x, mask = F.pad(x, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        tokens = self.drop(self.encoder(x, mask))  # (B, N, D)
        if self.pool is None:
            return self.head(tokens.flatten(1))
        return self.head(self.pool(tokens, None if mask is None else self.encoder.kept(mask)))
