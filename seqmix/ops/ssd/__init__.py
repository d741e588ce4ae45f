"""State space dual (SSD), the scan of Mamba-2: Dao and Gu, 2024, arXiv:2405.21060."""

from seqmix.ops.ssd.ssd import ssd, ssd_matrix, step_sizes

__all__ = ["ssd", "ssd_matrix", "step_sizes"]
