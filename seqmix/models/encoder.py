"""The bidirectional language encoder of Hydra (Hwang et al., 2024): BERT with any mixer and no MLP.

Parameters carry the names of goombalab/hydra, so that its published masked language models load unchanged.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers import MixerFactory, zero_masked


class BidirectionalLM(nn.Module):
    """Masked language model: a bidirectional encoder, and a head that shares the word embeddings.

    ``logits = W LN(GELU(linear(encoder(ids)))) + b`` with W the word embeddings.

    Shapes: ``(B, L) -> (B, L, vocab_size)``. Cost: that of the encoder, and O(L D vocab_size).

    Args:
        vocab_size: number of tokens, 30528 in the published models.
        d_model: width D.
        n_layers: number of mixers, 23 in the published model.
        mixer: makes the sequence mixer of each layer.
        max_len: longest sequence, for mixers that store an L x L matrix and for ``positions``.
        positions: learn an embedding for each of ``max_len`` positions; for mixers blind to order.
        pre_norm: normalise before each mixer and at the end, instead of after each residual sum.
        dropout: probability, on the embeddings.
        pad_id: token whose embedding is zero and stays zero.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. D.2. Differs from the original code in: layers do not start as
    copies of one another; padding is masked exactly.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layers: int,
        *,
        mixer: MixerFactory,
        max_len: int | None = None,
        positions: bool = False,
        pre_norm: bool = False,
        dropout: float = 0.1,
        pad_id: int = 0,
    ):
        super().__init__()
        self.bert = BidirectionalEncoder(
            vocab_size,
            d_model,
            n_layers,
            mixer=mixer,
            max_len=max_len,
            positions=positions,
            pre_norm=pre_norm,
            dropout=dropout,
            pad_id=pad_id,
        )
        head = _Predictions(d_model, vocab_size).apply(_init)
        head.decoder.weight = self.bert.embeddings["word_embeddings"].get_parameter("weight")
        self.cls = nn.ModuleDict({"predictions": head})

    def forward(self, ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """Score every token at every position.

        Args:
            ids: tokens ``(B, L)``.
            mask: positions to keep ``(B, L)`` bool.
            types: 0 or 1 for the first and second sentence ``(B, L)``, all 0 if None.
        """
        return self.cls["predictions"](self.bert(ids, mask, types))


class BidirectionalEncoder(nn.Module):
    """Word embeddings and mixers, ``x = LN(x + mixer(x))``: BERT without its MLPs.

    Shapes: ``(B, L) -> (B, L, D)``. Cost: ``n_layers`` times that of a mixer.

    Args:
        vocab_size: number of tokens.
        d_model: width D.
        n_layers: number of mixers.
        mixer: makes the sequence mixer of each layer.
        max_len: longest sequence, for mixers that store an L x L matrix and for ``positions``.
        positions: learn an embedding for each of ``max_len`` positions; for mixers blind to order.
        pre_norm: normalise before each mixer and at the end, instead of after each residual sum.
        dropout: probability, on the embeddings.
        pad_id: token whose embedding is zero and stays zero.

    Raises:
        ConfigError: if ``positions`` are asked for without ``max_len``.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. D.2. Differs from the original code in: see ``BidirectionalLM``.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layers: int,
        *,
        mixer: MixerFactory,
        max_len: int | None = None,
        positions: bool = False,
        pre_norm: bool = False,
        dropout: float = 0.1,
        pad_id: int = 0,
    ):
        super().__init__()
        if positions and max_len is None:
            raise ConfigError("max_len is needed: positions = True stores one embedding per position; set max_len=512")
        tables = {
            "word_embeddings": nn.Embedding(vocab_size, d_model, padding_idx=pad_id),
            "token_type_embeddings": nn.Embedding(2, d_model),
        }
        if positions and max_len is not None:
            tables["position_embeddings"] = nn.Embedding(max_len, d_model)
        self.embeddings = nn.ModuleDict({**tables, "LayerNorm": nn.LayerNorm(d_model, eps=1e-12)})
        self.dropout = nn.Dropout(dropout)
        layers = [_Layer(d_model, max_len, mixer, pre_norm) for _ in range(n_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(nn.ModuleDict({"layer": layer}) for layer in layers)})
        if pre_norm:
            self.encoder["norm_f"] = nn.LayerNorm(d_model, eps=1e-12)
        self.apply(_init)

    def forward(self, ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """Encode tokens; masked positions come out as zero.

        Args:
            ids: tokens ``(B, L)``.
            mask: positions to keep ``(B, L)`` bool.
            types: 0 or 1 for the first and second sentence ``(B, L)``, all 0 if None.
        """
        tables = self.embeddings
        x = tables["word_embeddings"](ids)
        x = x + tables["token_type_embeddings"](torch.zeros_like(ids) if types is None else types)
        if "position_embeddings" in tables:
            x = x + tables["position_embeddings"](torch.arange(ids.shape[1], device=ids.device))
        x = self.dropout(tables["LayerNorm"](x))
        for layer in self.encoder["layer"].children():
            x = layer.get_submodule("layer")(x, mask)
        x = self.encoder["norm_f"](x) if "norm_f" in self.encoder else x
        return zero_masked(x, mask)


def load_published(model: BidirectionalLM, state: Mapping[str, Tensor]) -> None:
    """Load a checkpoint of goombalab/hydra, strictly; the prefix that its trainer adds to the keys is removed."""
    state = {key.removeprefix("model."): value for key, value in state.items()}
    # a constant that the original stores with its positions
    state.pop("bert.embeddings.position_ids", None)
    model.load_state_dict(state)


class _Layer(nn.Module):
    def __init__(self, d_model: int, max_len: int | None, mixer: MixerFactory, pre_norm: bool):
        super().__init__()
        self.mixer = mixer(d_model, max_len)
        self.norm = nn.LayerNorm(d_model, eps=1e-5)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.pre_norm:
            return x + self.mixer(self.norm(x), mask)
        return self.norm(x + self.mixer(x, mask))


class _Predictions(nn.Module):
    def __init__(self, d_model: int, vocab_size: int):
        super().__init__()
        norm = nn.LayerNorm(d_model, eps=1e-12)
        self.transform = nn.ModuleDict({"dense": nn.Linear(d_model, d_model), "LayerNorm": norm})
        self.decoder = nn.Linear(d_model, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.transform["dense"](x))
        return self.decoder(self.transform["LayerNorm"](x))


def _init(module: nn.Module) -> None:
    # as BERT; convolutions, steps, decays and norms keep their own
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx] = 0
