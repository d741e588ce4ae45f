"""Hydra's bidirectional product: Hwang et al., 2024, arXiv:2407.09941, sec. 3."""

from seqmix.ops.quasiseparable.quasiseparable import quasiseparable, quasiseparable_matrix

__all__ = ["quasiseparable", "quasiseparable_matrix"]
