"""Bidirectional language encoders: BERT with any mixer, with and without MLPs.

After Hydra (Hwang et al., 2024), FNet (Lee-Thorp et al., 2021) and PoNet (Tan et al., 2021). Parameters carry the names
of goombalab/hydra, so that its published masked language models load unchanged.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers import Mixer, MixerFactory, segments_between, spared_parameters, zero_masked
from seqmix.models.block import mix
from seqmix.models.dropout import Dropout
from seqmix.models.positions import look_up, places


class BidirectionalLM(nn.Module):
    """Masked language model: a bidirectional encoder, and a head that shares the word embeddings.

    ``logits = W LN(GELU(linear(encoder(ids)))) + b`` with W the word embeddings.

    Shapes: ``(B, L) -> (B, L, vocab_size)``. Cost: that of the encoder, and O(L D vocab_size).

    Args:
        encoder: the encoder; it needs a pooler if there are relations.
        n_relations: relations between two sentences that a second head classifies, 2 for next sentence prediction, 3
            for PoNet's sentence order; 0 for no such head.
        gelu: ``"tanh"`` is the approximation of FNet, ``"none"`` the exact function.

    Raises:
        ConfigError: if relations are asked for and the encoder has no pooler.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. D.2. Differs from the original code in: see
    ``BidirectionalEncoder``.
    """

    def __init__(
        self, encoder: "BidirectionalEncoder", *, n_relations: int = 0, gelu: Literal["none", "tanh"] = "none"
    ):
        super().__init__()
        if n_relations and encoder.pooler is None:
            raise ConfigError(f"n_relations = {n_relations} needs a summary; build the encoder with pooler=True")
        self.bert = encoder
        words = encoder.embeddings["word_embeddings"].get_parameter("weight")
        vocab_size, D = words.shape
        self.cls = nn.ModuleDict({"predictions": _Predictions(D, vocab_size, gelu)})
        if n_relations:
            self.cls["seq_relationship"] = nn.Linear(D, n_relations)
        _init(self.cls)
        self.cls.get_submodule("predictions.decoder").weight = words

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        types: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Score every token at every position.

        Args:
            ids: tokens ``(B, L)``.
            mask: positions to keep ``(B, L)`` bool.
            types: number of the sentence that each token is in ``(B, L)``. Default: all 0.
            cu_seqlens: bounds ``(S + 1,)`` of texts packed into one row, B = 1, without a mask; nothing crosses them.
        """
        return self.cls["predictions"](self.bert(ids, mask, types, cu_seqlens=cu_seqlens))

    def score_both(self, ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score tokens ``(B, L, vocab_size)`` and relations ``(B, n_relations)``; arguments as those of ``forward``."""
        x = self.bert(ids, mask, types)
        return self.cls["predictions"](x), self.cls["seq_relationship"](self.bert.pool(x, mask))


class BidirectionalEncoder(nn.Module):
    """Word embeddings and mixers, ``x = LN(x + mixer(x))``: BERT with any mixer in place of attention.

    Shapes: ``(B, L) -> (B, L, D)``. Cost: ``n_layers`` times that of a mixer.

    Args:
        vocab_size: number of tokens, 30528 in Hydra's models.
        d_model: width D.
        n_layers: number of layers, 23 in Hydra's model.
        mixer: factory of the sequence mixer of each layer.
        layers: sequence mixers of successive layers, repeated from the start; replaces ``mixer``.
        channel_mixer: makes a channel mixer after each sequence mixer, with norm and residual of its own; None, as in
            Hydra, for none.
        max_len: longest sequence, for mixers that store an L x L matrix and for ``positions``.
        positions: learn an embedding for each of ``max_len`` positions; for mixers that ignore order.
        n_types: numbers that sentences can have, 4 in FNet.
        projection: a linear map between the embeddings and the first layer, as in FNet.
        pooler: a layer ``tanh(linear(x[0]))`` for predictions about the whole text.
        pre_norm: normalize before each mixer and at the end, instead of after each residual sum.
        norm_eps: added to variances in the layers; 1e-5 in Hydra, 1e-12 in FNet and PoNet.
        dropout: dropout probability on the embeddings.
        pad_id: token whose embedding is zero and stays zero.

    Raises:
        ConfigError: if ``positions`` are asked for without ``max_len``, or ``layers`` is empty.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. D.2; Lee-Thorp et al., 2021, arXiv:2105.03824. Differs from the
    original code in: layers do not start as copies of one another, and have no dropout but that of their mixers;
    padding is masked exactly; FNet draws the biases of its layers too.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layers: int,
        *,
        mixer: MixerFactory,
        layers: list[MixerFactory] | None = None,
        channel_mixer: MixerFactory | None = None,
        max_len: int | None = None,
        positions: bool = False,
        n_types: int = 2,
        projection: bool = False,
        pooler: bool = False,
        pre_norm: bool = False,
        norm_eps: float = 1e-5,
        dropout: float = 0.1,
        pad_id: int = 0,
    ):
        super().__init__()
        if positions and max_len is None:
            raise ConfigError("max_len is needed: positions = True stores one embedding per position; set max_len=512")
        if layers == []:
            raise ConfigError("layers is an empty list; name at least one mixer, or leave it out to use mixer")
        check_at_least(1, vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, max_len=max_len, n_types=n_types)
        tables = {
            "word_embeddings": nn.Embedding(vocab_size, d_model, padding_idx=pad_id),
            "token_type_embeddings": nn.Embedding(n_types, d_model),
        }
        if positions and max_len is not None:
            tables["position_embeddings"] = nn.Embedding(max_len, d_model)
        self.embeddings = nn.ModuleDict({**tables, "LayerNorm": nn.LayerNorm(d_model, eps=1e-12)})
        if projection:
            self.embeddings["projection"] = nn.Linear(d_model, d_model)
        self.max_len, self.n_types = max_len, n_types
        self.dropout = Dropout(dropout)
        makers = [mixer] if layers is None else layers
        stack = []
        for i in range(n_layers):
            parts = {"layer": makers[i % len(makers)], "channels": channel_mixer}
            made = {name: make(d_model, max_len) for name, make in parts.items() if make is not None}
            stack.append(
                nn.ModuleDict({name: _Residual(part, d_model, pre_norm, norm_eps) for name, part in made.items()})
            )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(stack)})
        if pre_norm:
            self.encoder["norm_f"] = nn.LayerNorm(d_model, eps=1e-12)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(d_model, d_model)}) if pooler else None
        _init(self)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        types: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        segments: Tensor | None = None,
        special: Tensor | None = None,
    ) -> Tensor:
        """Encode tokens; masked positions come out as zero.

        Args:
            ids: tokens ``(B, L)``.
            mask: positions to keep ``(B, L)`` bool.
            types: number of the sentence that each token is in ``(B, L)``. Default: all 0.
            cu_seqlens: bounds ``(S + 1,)`` of texts packed into one row, B = 1, without a mask; nothing crosses them.
            segments: segment of each token ``(B, L)``, for mixers that pool over segments. Default: the text between
                two special tokens, where those are given.
            special: [CLS] and [SEP] ``(B, L)`` bool, for the same mixers.

        Raises:
            ConfigError: if there are bounds and a mixer does not take them.
        """
        if segments is None and special is not None:
            segments = segments_between(special)
        tables = self.embeddings
        x = tables["word_embeddings"](ids)
        x = x + tables["token_type_embeddings"](torch.zeros_like(ids) if types is None else types)
        if "position_embeddings" in tables:
            x = x + look_up(
                cast(nn.Embedding, tables["position_embeddings"]), places(ids, mask, cu_seqlens), ids.shape[1]
            )
        x = tables["LayerNorm"](x)
        x = self.dropout(tables["projection"](x) if "projection" in tables else x)
        for layer in self.encoder["layer"].children():
            for residual in layer.children():
                x = residual(x, mask, cu_seqlens, segments, special)
        x = self.encoder["norm_f"](x) if "norm_f" in self.encoder else x
        return zero_masked(x, mask)

    @property
    def mixer_names(self) -> list[str]:
        """The sequence mixers, each named once, in the order of their first layer."""
        names = [type(layer.get_submodule("layer.mixer")).__name__ for layer in self.encoder["layer"].children()]
        return list(dict.fromkeys(names))

    def pool(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Summary ``(B, D)`` of the features ``x: (B, L, D)``, from the first position that is kept."""
        if self.pooler is None:
            raise ConfigError("pooler = False leaves nothing to make a summary; build the encoder with pooler=True")
        if mask is None:
            return self.pooler["dense"](x[:, 0]).tanh()
        first = mask.byte().argmax(1)
        return self.pooler["dense"](x[torch.arange(len(x), device=x.device), first]).tanh()


class EncoderFactory(Protocol):
    """Factory of encoders, called with the number of tokens; the same config entry for pre-training and fine-tuning."""

    def __call__(self, vocab_size: int) -> BidirectionalEncoder:
        """Build the encoder."""
        ...


def load_published(model: BidirectionalLM, state: Mapping[str, Tensor]) -> None:
    """Load a checkpoint of goombalab/hydra, strictly; the prefix that its trainer adds to the keys is removed."""
    state = {key.removeprefix("model."): value for key, value in state.items()}
    # a constant that the original stores with its positions
    state.pop("bert.embeddings.position_ids", None)
    model.load_state_dict(state)


class _Residual(nn.Module):
    def __init__(self, mixer: Mixer, d_model: int, pre_norm: bool, eps: float):
        super().__init__()
        self.mixer = mixer
        self.norm = nn.LayerNorm(d_model, eps=eps)
        self.pre_norm = pre_norm

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        segments: Tensor | None,
        special: Tensor | None,
    ) -> Tensor:
        inside = self.norm(x) if self.pre_norm else x
        y = mix(self.mixer, inside, mask, cu_seqlens, {"segment_index": segments, "special": special})
        return x + y if self.pre_norm else self.norm(x + y)


class _Predictions(nn.Module):
    def __init__(self, d_model: int, vocab_size: int, gelu: str):
        super().__init__()
        self.gelu = gelu
        norm = nn.LayerNorm(d_model, eps=1e-12)
        self.transform = nn.ModuleDict({"dense": nn.Linear(d_model, d_model), "LayerNorm": norm})
        self.decoder = nn.Linear(d_model, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.transform["dense"](x), approximate=self.gelu)
        return self.decoder(self.transform["LayerNorm"](x))


def _init(model: nn.Module) -> None:
    # as BERT; convolutions, state spaces and norms keep their own
    spared = spared_parameters(model)
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None and f"{path}.bias" not in spared:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx] = 0
