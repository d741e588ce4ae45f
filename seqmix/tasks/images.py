"""The image classification task."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from jsonargparse.typing import register_type
from torch import Tensor
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.tasks._accuracy import label_sums
from seqmix.tasks._baselines import majority
from seqmix.tasks._layers import block_depths
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Score, Table
from seqmix.tasks.task import Task, require_facts
from seqmix.vision import ImageModel, create_model, load_weights

Batch = dict[str, Tensor]

_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.05, warmup=0.05)

if TYPE_CHECKING:
    ImageModelName = str
else:

    class ImageModelName(str):
        """Name of an image model in a config: lower case, which class paths are not. Values are plain strings."""

    def _is_name(value: Any, _: type = str) -> bool:
        return isinstance(value, str) and re.fullmatch(r"[a-z0-9_]+", value) is not None

    def _name(value: Any) -> str:
        if not _is_name(value):
            raise ValueError(f"{value!r} is not the name of an image model")
        return value

    # a plain `str` would take every class path too
    register_type(ImageModelName, _name, _name, type_check=_is_name)


class ImageModelFactory(Protocol):
    """Factory of image models: a class, ``functools.partial`` or config entry, called with the facts of the data."""

    def __call__(self, num_classes: int, in_chans: int) -> ImageModel:
        """Build the model; both arguments are keywords."""
        ...


class ImageClassification(Task):
    """Image classification.

    A batch is ``{"images": (B, C, H, W), "labels": (B,)}``, in training with ``"targets": (B, K)``, the share of each
    class, where images were mixed. Validation and test accuracy and loss are sums over every image divided by their
    count, never means of batch means. The best checkpoint is that of the highest validation accuracy.

    Args:
        model: name of an image model (``caformer_s18``), or a config entry of a class with its options.
        n_classes: number of classes; linked from the datamodule.
        n_channels: channels of the images; linked from the datamodule.
        options: of the model, where it is given by name, for example ``{drop_path_rate: 0.15}``.
        weights: checkpoint to start from, published or of another run: a file or a hub id. A classifier for other
            classes is initialized again. With the classifier of the file the model can be tested as it is.
        freeze: stages that are not trained, counted from the input; ``backbone`` trains the classifier only.
        freeze_norms: batch norms keep their statistics, scales and shifts.
        class_names: names of the classes, kept in checkpoints; linked from the datamodule.
        input_cfg: size, normalization and crop of the images, kept in checkpoints; linked from the datamodule.
        label_smoothing: share of the target that is spread over all classes in training.
        grad_checkpointing: recompute blocks in the backward pass: less memory, more time.

    Raises:
        ConfigError: if options are out of range, or the data does not know its classes.
        DataError: if ``weights`` cannot be read or are those of another model.
    """

    metrics = ("accuracy", "top5", "loss")
    better = "higher"
    counted = "images"
    facts = ("n_classes", "img_size")
    extent = "{n_classes:,} classes, {img_size} pixels"
    table = Table("images", ("img_size",), "pixels")

    def __init__(
        self,
        model: ImageModelName | ImageModelFactory,
        n_classes: int,
        n_channels: int,
        *,
        options: dict[str, Any] | None = None,
        weights: str | None = None,
        freeze: int | Literal["backbone"] = 0,
        freeze_norms: bool = False,
        class_names: Sequence[str] | None = None,
        input_cfg: Mapping[str, Any] | None = None,
        label_smoothing: float = 0.0,
        grad_checkpointing: bool = False,
        optim: Optim = _OPTIM,
        patience: int | None = None,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, n_classes=n_classes, n_channels=n_channels)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing is a share, 0 <= label_smoothing < 1, got {label_smoothing}; use 0.1")
        if options and not isinstance(model, str):
            raise ConfigError(f"options = {options} go with the name of a model; write them into init_args of model")
        self.label_smoothing = label_smoothing
        self.model = _build(model, n_classes, n_channels, options or {})
        self.class_names, self.input_cfg = class_names, input_cfg
        if input_cfg is not None:
            _try_images(self.model, input_cfg["input_size"])
        if weights is not None:
            # a checkpoint of this task has the weights
            self.hparams.pop("weights")
            fresh = load_weights(self.model, weights, fresh_classifier=True)
            self.ready = not any(name.startswith(self.model.classifier_name) for name in fresh)
            _compare_inputs(self.model.default_cfg, input_cfg)
        if freeze == "backbone":
            self.model.freeze_backbone()
        else:
            self.model.freeze(*self.model.stage_names(freeze))
        if freeze_norms:
            self.model.freeze_norms()
        self.model.set_grad_checkpointing(grad_checkpointing)
        # correct predictions, those among five, negative log-likelihood, images, those of each class
        self.sums = torch.zeros(4 + n_classes, dtype=torch.float64)

    @property
    def label(self) -> str:
        """Name of the model, or of its class and mixers."""
        return self.model.label

    def forward(self, batch: Batch) -> Tensor:
        """Score every class of every image of a batch, ``(B, K)``."""
        # with `bf16-true` the parameters are narrow, and the images are not
        return self.model(batch["images"].to(self.dtype))

    def example(self) -> dict[str, Batch]:
        """One black image."""
        if self.input_cfg is None:
            raise ConfigError(
                f"{type(self).__name__} needs data that knows input_cfg to be densified; leave out --densify"
            )
        return {"batch": {"images": torch.zeros(1, *self.input_cfg["input_size"])}}

    def loss_of(self, batch: Batch) -> Tensor:
        """Cross-entropy of one batch, with the shares of the classes where images were mixed."""
        targets = batch.get("targets", batch["labels"])
        return F.cross_entropy(self(batch).float(), targets, label_smoothing=self.label_smoothing)

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """The most frequent class."""
        train, test = data.label_counts("train"), self.sums[4:]
        found = majority(train, test)
        top5 = float(test[train.topk(min(5, len(train))).indices].sum() / test.sum())
        return [replace(found, metrics={**found.metrics, "top5": top5})]

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Truth ``labels``, the most likely class ``predicted`` and its ``probability``, each ``(B,)``."""
        probability, predicted = self(batch).float().softmax(-1).max(-1)
        return {"labels": batch["labels"], "predicted": predicted, "probability": probability}

    def prediction_rows(self, batch: Batch, first: int, data: Any) -> pd.DataFrame:
        """A row for each test image: its number, its class and the predicted one by name, the probability of that."""
        label, predicted, probability = (values.cpu().numpy() for values in batch.values())
        names = np.asarray(data.class_names)
        return pd.DataFrame(
            {
                "image": np.arange(first, first + len(label)),
                "class": names[label],
                "predicted": names[predicted],
                "probability": probability,
            }
        )

    def add_batch(self, batch: Batch) -> None:
        """Add correct predictions, those in the top five, negative log-likelihood and images of one batch."""
        scores, labels = self(batch), batch["labels"]
        right, *others = label_sums(scores, labels)
        among = scores.topk(min(5, scores.shape[-1])).indices == labels[:, None]  # (B, 5)
        self.sums += torch.stack([right, among.sum().double().cpu(), *others])

    def depths(self) -> dict[str, int]:
        """Number of the block of each parameter of the model."""
        return {f"model.{name}": depth for name, depth in block_depths(self.model).items()}

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Accuracy, top-5 accuracy, and negative log-likelihood in nats."""
        right, among, loss, count = self.sums[:4].tolist()
        return {"accuracy": right / count, "top5": among / count, "loss": loss / count}, count


def _build(
    model: ImageModelName | ImageModelFactory, n_classes: int, n_channels: int, options: dict[str, Any]
) -> ImageModel:
    facts = {"num_classes": n_classes, "in_chans": n_channels}
    built = create_model(model, **facts, **options) if isinstance(model, str) else model(**facts)
    if not isinstance(built, ImageModel):
        raise ConfigError(
            f"model = {model!r} makes a {type(built).__name__}, which is no ImageModel with classes; use a class "
            "derived from it, and leave features_only out of options"
        )
    return built


def _try_images(model: ImageModel, size: Sequence[int]) -> None:
    """Refuse images that the model cannot take, before anything else is done."""
    like, was_training = next(model.parameters()), model.training
    if like.is_meta:
        return
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *size, device=like.device, dtype=like.dtype))
    except ValueError as error:
        raise ConfigError(f"{model.label} cannot take the images of the data ({error}); use another size") from error
    finally:
        model.train(was_training)


def _compare_inputs(expected: Mapping[str, Any], given: Mapping[str, Any] | None) -> None:
    """Warn if images are normalized in another way than the weights were trained with."""
    for name in ("mean", "std"):
        if given is not None and any(abs(a - b) > 1e-3 for a, b in zip(expected[name], given[name], strict=True)):
            warnings.warn(
                f"the weights expect images with {name} = {list(expected[name])}, the data has {list(given[name])}; "
                f"set data.{name}",
                stacklevel=3,
            )
