"""Selective scan S6: Gu and Dao, *Mamba*, 2023, arXiv:2312.00752, sec. 3."""

from seqmix.ops.scan.matrix import scan_matrix
from seqmix.ops.scan.selective_scan import selective_scan, selective_scan_step

__all__ = ["scan_matrix", "selective_scan", "selective_scan_step"]
