"""Diagonal linear recurrence."""

from seqmix.ops.recurrence.linear_recurrence import linear_recurrence, recurrence_matrix

__all__ = ["linear_recurrence", "recurrence_matrix"]
