"""Gated delta rule: linear attention with decays and with writes that replace what a key held."""

from seqmix.ops.delta.gated_delta import delta_matrix, gated_delta
from seqmix.ops.delta.several import delta_product, delta_product_matrix, dplr_delta, dplr_matrix

__all__ = ["delta_matrix", "delta_product", "delta_product_matrix", "dplr_delta", "dplr_matrix", "gated_delta"]
