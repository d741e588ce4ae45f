"""Accuracy and cross-entropy that are exact over all examples: sums over one pass of a loader."""

import torch
from torch import Tensor
from torch.nn import functional as F


def score_sums(scores: Tensor, labels: Tensor) -> Tensor:
    """Correct predictions, negative log-likelihood in nats, and examples of one batch, ``(3,)`` float64 on the CPU."""
    scores = scores.float()
    right = (scores.argmax(-1) == labels).sum()
    loss = F.cross_entropy(scores, labels, reduction="sum")
    return torch.stack([right.double(), loss.double(), right.new_tensor(len(labels)).double()]).cpu()


def confusion_sums(scores: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood in nats, and the examples of each true class, a row, by predicted class.

    Shapes: ``(B, K), (B,) -> (1 + K K,)`` float64 on the CPU.
    """
    K = scores.shape[-1]
    loss = score_sums(scores, labels)[1:2]
    return torch.cat([loss, torch.bincount(labels * K + scores.argmax(-1), minlength=K * K).double().cpu()])


def confusion_metrics(counts: Tensor) -> dict[str, float]:
    """Accuracy, balanced accuracy (mean recall of the classes that occur) and macro F1 of ``counts: (K, K)``.

    Macro F1 is the mean over the classes that occur or are predicted, as in scikit-learn.
    """
    right, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    both = true + predicted
    return {
        "accuracy": float(right.sum() / counts.sum()),
        "balanced_accuracy": float((right / true)[true > 0].mean()),
        "macro_f1": float((2 * right / both)[both > 0].mean()),
    }


def label_sums(scores: Tensor, labels: Tensor) -> Tensor:
    """``score_sums`` and the number of examples of each class, ``(3 + n_classes,)``."""
    return torch.cat([score_sums(scores, labels), torch.bincount(labels, minlength=scores.shape[-1]).double().cpu()])
