"""Bag-of-words baseline for fine-tuned encoders: word counts and a linear model of scikit-learn."""

import re
from collections.abc import Sequence

import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

Example = tuple[tuple[bytes, ...], float]


def bag_of_words(train: Sequence[Example], test: Sequence[Example], classes: bool) -> tuple[Tensor, Tensor, int]:
    """Labels and predictions of ``test``, each ``(n,)``, and the number of weights.

    Logistic regression for classes and ridge regression for scores, on counts of the words; those of the second
    sentence of a pair count apart.

    Args:
        train: sentences and labels to learn from.
        test: those to predict.
        classes: labels are classes, not scores.
    """
    # the type stubs declare names of analyzers only
    words = CountVectorizer(analyzer=_words)  # pyright: ignore[reportArgumentType]
    model = LogisticRegression(max_iter=1000) if classes else Ridge()
    model.fit(words.fit_transform([texts for texts, _ in train]), [label for _, label in train])
    predicted = model.predict(words.transform([texts for texts, _ in test]))
    labels = torch.tensor([label for _, label in test])
    return labels, torch.from_numpy(predicted).to(labels), model.coef_.size + 1


def _words(texts: tuple[bytes, ...]) -> list[str]:
    lower = [text.decode(errors="replace").lower() for text in texts]
    return [f"{k} {word}" for k, text in enumerate(lower) for word in re.findall(r"\w+", text)]
