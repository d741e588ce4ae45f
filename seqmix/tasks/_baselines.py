"""Baselines: the most frequent class, and models trained with default settings."""

import tempfile
import time
import warnings
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from seqmix.tasks._accuracy import confusion_metrics
from seqmix.tasks.score import Score
from seqmix.tasks.task import Task


def majority(train: Tensor, test: Tensor) -> Score:
    """Predict the most frequent class of the training set for every test example.

    Args:
        train: training examples of each class ``(n_classes,)``.
        test: test examples of each class ``(n_classes,)``.
    """
    # one example more of each class: no class of the test set has probability zero
    log_share = ((train + 1) / (train + 1).sum()).double().log()
    count, counts = int(test.sum()), torch.zeros(len(test), len(test), dtype=torch.float64)
    counts[:, train.argmax()] = test
    metrics = {**confusion_metrics(counts), "loss": -float((test * log_share).sum() / count)}
    return Score("Majority", metrics, count)


def trained(task: Task, data: Any, like: pl.Trainer, seed: int) -> Score:
    """Train and test a baseline with default settings on the device and the part of the data that ``like`` uses."""
    pl.seed_everything(seed, workers=True, verbose=False)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # the other processes of a run have no part in this training
        warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
        best = ModelCheckpoint(folder, monitor=task.monitor, save_weights_only=True)
        trainer = pl.Trainer(
            accelerator=like.strategy.root_device.type,
            devices=1,
            max_epochs=10,
            gradient_clip_val=1.0,
            logger=False,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            fast_dev_run=getattr(like, "fast_dev_run", False),
            limit_train_batches=like.limit_train_batches,
            limit_val_batches=like.limit_val_batches,
            limit_test_batches=like.limit_test_batches,
            callbacks=[best],
        )
        started = time.perf_counter()
        if any(p.requires_grad for p in task.parameters()):
            trainer.fit(task, data)
        seconds = time.perf_counter() - started
        trainer.test(task, data, ckpt_path=best.best_model_path or None, verbose=False)
    return replace(task.score(), seconds=seconds)
