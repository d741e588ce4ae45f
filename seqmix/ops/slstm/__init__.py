"""Recurrence of scalar memories with exponential gates, of sLSTM."""

from seqmix.ops.slstm.slstm import slstm

__all__ = ["slstm"]
