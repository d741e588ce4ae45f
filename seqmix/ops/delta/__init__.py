"""Gated delta rule: linear attention with decay and the delta rule."""

from seqmix.ops.delta.gated_delta import delta_matrix, gated_delta
from seqmix.ops.delta.several import delta_product, delta_product_matrix, dplr_delta, dplr_matrix

__all__ = ["delta_matrix", "delta_product", "delta_product_matrix", "dplr_delta", "dplr_matrix", "gated_delta"]
