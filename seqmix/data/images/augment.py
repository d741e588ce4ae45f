"""Augmentation of batches of training images on the training device: kornia's, mixup and cutmix."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F

from seqmix.errors import ConfigError, check_choice

Batch = dict[str, Tensor]


class Augmentation(nn.Module):
    """RandAugment, color jitter, random erasing, mixup and cutmix, as in the recipe of DeiT.

    It takes ``{"images": (B, C, H, W), "labels": (B,)}`` with values from 0 to 1, and adds ``"targets": (B, K)``, the
    share of each class, where images are mixed: one share for a batch, drawn from ``Beta(alpha, alpha)``, each image
    with the one at its place from the end. Color operations need three channels.

    Args:
        rand_augment: magnitude of RandAugment from 0 to 10, as in timm's names ``rand-m9``; 0 for none.
        n_ops: operations of RandAugment one after another.
        color_jitter: strength of changes in brightness, contrast and saturation; 0 for none.
        erasing: probability that a rectangle of an image is filled with noise.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of cutmix, 0 for none; where both are given each batch gets one of them, by a fair coin.
        flip: ``horizontal`` turns half of the images left to right, ``none`` no image.

    Raises:
        ConfigError: if an option is out of range, or kornia is needed and missing.

    Source: Touvron et al., 2020, arXiv:2012.12877, table 9; Cubuk et al., 2019, arXiv:1909.13719; Zhang et al., 2017,
    arXiv:1710.09412; Yun et al., 2019, arXiv:1905.04899. Differs from the original code in: RandAugment is kornia's,
    which draws its operations for a batch, not for an image, and does not vary the magnitude.
    """

    def __init__(
        self,
        *,
        rand_augment: float = 0.0,
        n_ops: int = 2,
        color_jitter: float = 0.0,
        erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        flip: Literal["horizontal", "none"] = "none",
    ):
        super().__init__()
        check_choice("flip", flip, ("horizontal", "none"))
        if not 0 <= rand_augment <= 10:
            raise ConfigError(f"rand_augment is a magnitude from 0 to 10, got {rand_augment}; use 9, or 0 for none")
        if not 0 <= erasing <= 1:
            raise ConfigError(f"erasing is a probability, 0 to 1, got {erasing}; use 0.25, or 0 for none")
        if min(mixup, cutmix, color_jitter) < 0:
            raise ConfigError(
                f"mixup = {mixup}, cutmix = {cutmix}, color_jitter = {color_jitter}; none may be negative, "
                "use 0 for none"
            )
        self.mixup, self.cutmix, self.erasing, self.flip = mixup, cutmix, erasing, flip
        self.needs_color = rand_augment > 0 or color_jitter > 0
        self.colors = nn.Sequential(*_color_changes(rand_augment, n_ops, color_jitter))

    def forward(self, batch: Batch, n_classes: int, mean: Tensor, std: Tensor) -> Batch:
        """Change a batch, and normalize it: ``mean`` and ``std`` are ``(C, 1, 1)``."""
        x = batch["images"]
        if self.flip == "horizontal":
            turned = torch.rand(len(x), device=x.device) < 0.5
            x = torch.where(turned[:, None, None, None], x.flip(3), x)
        if len(self.colors):
            x = self.colors(x)
        x = (x - mean) / std
        if self.erasing:
            x = erase(x, self.erasing)
        if not self.mixup and not self.cutmix:
            return {**batch, "images": x}
        cut = self.cutmix > 0 and (not self.mixup or bool(torch.rand(()) < 0.5))
        alpha = self.cutmix if cut else self.mixup
        share = float(Beta(torch.tensor(alpha), torch.tensor(alpha)).sample())
        x, share = paste(x, share) if cut else (share * x + (1 - share) * x.flip(0), share)
        classes = F.one_hot(batch["labels"], n_classes).to(x.dtype)  # (B, K)
        return {**batch, "images": x, "targets": share * classes + (1 - share) * classes.flip(0)}


def finish(
    batch: Batch, augment: Augmentation | None, n_classes: int, mean: Sequence[float], std: Sequence[float]
) -> Batch:
    """Convert a batch of bytes ``(B, C, H, W)`` to the inputs of models, with ``augment`` if given."""
    images = batch["images"].float() / 255  # (B, C, H, W)
    center, width = (images.new_tensor(m).view(-1, 1, 1) for m in (mean, std))
    if augment is None:
        return {**batch, "images": (images - center) / width}
    return augment({**batch, "images": images}, n_classes, center, width)


def paste(x: Tensor, share: float) -> tuple[Tensor, float]:
    """Cutmix: a rectangle of ``1 - share`` of ``x: (B, C, H, W)`` from the image at each place from the end.

    Returns the images and the share that is left, which is more where the rectangle reaches over the border.
    """
    H, W = x.shape[2:]
    high, wide = (round(side * (1 - share) ** 0.5) for side in (H, W))
    top, left = int(torch.randint(H, ())) - high // 2, int(torch.randint(W, ())) - wide // 2
    rows, columns = (slice(max(a, 0), max(a + n, 0)) for a, n in ((top, high), (left, wide)))
    mixed = x.clone()
    mixed[:, :, rows, columns] = x.flip(0)[:, :, rows, columns]
    height, width = (len(range(*s.indices(n))) for s, n in ((rows, H), (columns, W)))
    return mixed, 1 - height * width / (H * W)


def erase(x: Tensor, probability: float) -> Tensor:
    """Fill a rectangle of 2 to 33 % of some images of ``x: (B, C, H, W)`` with normal noise."""
    # after the normalization, where the published recipes have it, and with noise per pixel, which kornia's lacks
    B, _, H, W = x.shape
    area = torch.empty(B, device=x.device).uniform_(0.02, 1 / 3) * (torch.rand(B, device=x.device) < probability)
    ratio = torch.empty(B, device=x.device).uniform_(-1.2, 1.2).exp()  # width over height, 0.3 to 3.3
    high, wide = ((area * H * W * r).sqrt().clamp(max=n) for r, n in ((1 / ratio, H), (ratio, W)))
    top, left = (torch.rand(B, device=x.device) * (n - size) for n, size in ((H, high), (W, wide)))
    rows, columns = torch.arange(H, device=x.device), torch.arange(W, device=x.device)
    inside_rows = (rows >= top[:, None].round()) & (rows < (top + high)[:, None].round())  # (B, H)
    inside_columns = (columns >= left[:, None].round()) & (columns < (left + wide)[:, None].round())  # (B, W)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, torch.randn_like(x), x)


def _color_changes(rand_augment: float, n_ops: int, color_jitter: float) -> list[nn.Module]:
    if not rand_augment and not color_jitter:
        return []
    try:
        import kornia.augmentation as K
        from kornia.augmentation.auto import RandAugment
    except ImportError as error:
        raise ConfigError(
            "kornia is needed for rand_augment and color_jitter; pip install 'seqmix[vision]', or set both to 0"
        ) from error
    changes: list[nn.Module] = []
    if rand_augment:
        # kornia's magnitudes go from 1 to 30
        changes.append(RandAugment(n_ops, max(1, round(3 * rand_augment))))
    if color_jitter:
        changes.append(K.ColorJitter(color_jitter, color_jitter, color_jitter))
    return changes
