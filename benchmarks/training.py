"""Set-up of benchmarks that train in this process: one thread, no messages, a Trainer that writes no files."""

import lightning.pytorch as pl
import torch

from seqmix.ops import tune_allocator
from seqmix.tasks.messages import silence


def one_quiet_thread() -> None:
    """Train with one thread, and without the messages of Lightning about itself."""
    torch.set_num_threads(1)
    tune_allocator()
    silence()


def trainer(*, max_epochs: int = -1, max_steps: int = -1) -> pl.Trainer:
    """A Trainer that validates not once, for so many epochs or steps."""
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        max_steps=max_steps,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
