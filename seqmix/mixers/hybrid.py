"""Hybrids of attention layers and layers of a cheaper mixer (FNet, arXiv:2105.03824, sec. 4.3)."""

from typing import Literal

from seqmix.errors import ConfigError
from seqmix.mixers.attention import Attention
from seqmix.mixers.fnet import FNet
from seqmix.mixers.mixer import MixerFactory

Layout = Literal["bottom", "middle", "mixed", "top"]


def hybrid_layers(
    n_layers: int,
    n_attention: int,
    layout: Layout = "top",
    *,
    mixer: MixerFactory = FNet,
    attention: MixerFactory = Attention,
) -> list[MixerFactory]:
    """Return one factory per layer, ``n_attention`` of them attention, for the ``layers`` of a backbone.

    Layer l of n uses attention if ``l < k`` (bottom), ``l >= n - k`` (top), ``n - k <= 2l < n + k`` (middle), or l is a
    multiple of ``n // k`` (mixed; more than k layers if k does not divide n).

    Args:
        n_layers: number of layers n.
        n_attention: number of attention layers k.
        layout: position of the attention layers, counted from the input; "top" is the paper's best.
        mixer: factory of the mixer of the other layers.
        attention: factory of the mixer of the attention layers.

    Raises:
        ConfigError: if ``n_attention`` is negative or over ``n_layers``, or the layout is not known.
    """
    n, k = n_layers, n_attention
    if not 0 <= k <= n:
        raise ConfigError(f"n_attention = {k} of n_layers = {n} is not possible; use 0 to {n}")
    rules = {
        "bottom": lambda i: i < k,
        "middle": lambda i: n - k <= 2 * i < n + k,
        "mixed": lambda i: k > 0 and i % (n // k) == 0,
        "top": lambda i: i >= n - k,
    }
    if layout not in rules:
        raise ConfigError(f"layout = {layout!r} is not known; use one of {', '.join(rules)}")
    return [attention if rules[layout](i) else mixer for i in range(n)]
