"""The contract of mixers on a grid."""

import torch

from seqmix.errors import ConfigError
from seqmix.testing._probes import normal, probe
from seqmix.testing.closeness import assert_close_ratio
from seqmix.vision.grid_mixer import Grid, GridMixer, GridMixerFactory


def check_grid_mixer(factory: GridMixerFactory, *, d_model: int = 8, grid: Grid = (3, 4)) -> None:
    """Run the whole contract of grid mixers on mixers of ``factory``.

    Args:
        factory: a grid mixer class, or anything called as ``factory(d_model, grid)``.
        d_model: width to test with.
        grid: height and width to test with, each at least 3.

    Raises:
        AssertionError: at the first broken promise, with the remedy.
    """
    check_grid_dtypes(factory, d_model=d_model, grid=grid)
    check_grid_mask(factory, d_model=d_model, grid=grid)
    if takes_any_grid(factory, d_model):
        check_padded_images(factory, d_model=d_model, grid=grid)


def takes_any_grid(factory: GridMixerFactory, d_model: int = 8) -> bool:
    """Whether the mixer is built without a grid, and so takes images of any size."""
    try:
        factory(d_model)
    except ConfigError:
        return False
    return True


def check_grid_dtypes(factory: GridMixerFactory, *, d_model: int = 8, grid: Grid = (3, 4)) -> None:
    """The output has shape and dtype of the input; float32 agrees with float64; gradients reach every parameter."""
    mixer = _build(factory, d_model, grid)
    name = type(mixer).__name__
    x = normal(2, *grid, d_model).requires_grad_()
    y = mixer(x)
    if y.shape != x.shape or y.dtype != x.dtype:
        raise AssertionError(
            f"shapes: {name} makes {y.dtype} {tuple(y.shape)} of {x.dtype} {tuple(x.shape)}; return what it was given"
        )
    y.backward(normal(*y.shape, seed=1))
    for key, p in mixer.named_parameters():
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all() or not p.grad.any()):
            what = "no" if p.grad is None else "a zero, NaN or infinite"
            raise AssertionError(f"gradients: {key} of {name} gets {what} gradient; use it in forward, or remove it")
    single = _build(factory, d_model, grid).float()(x.detach().float())
    # 24 bits of mantissa, times the rounding of a few layers
    assert_close_ratio(f"dtypes: {name} in float32 is off float64", single, y, 1e-4)


def check_grid_mask(factory: GridMixerFactory, *, d_model: int = 8, grid: Grid = (3, 4)) -> None:
    """Masked tokens contribute nothing, whatever their values, and their output is zero."""
    mixer = _build(factory, d_model, grid)
    name = type(mixer).__name__
    mask = torch.rand((2, *grid), generator=torch.Generator().manual_seed(0)) > 0.4
    x = normal(2, *grid, d_model)
    y = mixer(x, mask)
    filled = mixer(x.masked_fill(~mask.unsqueeze(-1), float("nan")), mask)
    if not torch.equal(y.nan_to_num(nan=1e9), filled.nan_to_num(nan=1e9)):
        raise AssertionError(f"mask: {name} reads masked tokens; begin with zero_masked(x, mask)")
    if y[~mask].any():
        raise AssertionError(f"mask: {name} writes to masked tokens; end with zero_masked(y, mask)")


def check_padded_images(factory: GridMixerFactory, *, d_model: int = 8, grid: Grid = (3, 4)) -> None:
    """A batch of images of unequal sizes, padded anywhere, gives the results of each image alone, and gradients."""
    mixer = _build(factory, d_model, grid)
    name = type(mixer).__name__
    height, width = grid
    places = ((grid, (0, 0)), ((height - 1, width - 1), (1, 1)), ((1, 1), (height - 1, width - 1)))
    images = [normal(1, *size, d_model, seed=i).requires_grad_() for i, (size, _) in enumerate(places)]
    alone = [mixer(image) for image in images]
    # the last image is all padding
    x = torch.full((len(images) + 1, *grid, d_model), float("nan"), dtype=torch.float64)
    mask = torch.zeros(x.shape[:3], dtype=torch.bool)
    for i, (image, (_, (top, left))) in enumerate(zip(images, places, strict=True)):
        window = (i, slice(top, top + image.shape[1]), slice(left, left + image.shape[2]))
        x[window], mask[window] = image[0].detach(), True
    y = mixer(x.requires_grad_(), mask)
    remedy = "let only the kept tokens take part"
    want = torch.cat([a.flatten(0, 2) for a in alone])
    assert_close_ratio(f"mask: {name} sees the padding around an image; {remedy}", y[mask], want, 1e-9)
    y.square().sum().backward()
    torch.stack([a.square().sum() for a in alone]).sum().backward()
    grads = [image.grad for image in images]
    if x.grad is None or any(grad is None for grad in grads):
        raise AssertionError(f"gradients: the input of {name} gets no gradient; do not detach it")
    want = torch.cat([grad.flatten(0, 2) for grad in grads if grad is not None])
    assert_close_ratio(f"mask: the gradient of {name} sees the padding; {remedy}", x.grad[mask], want, 1e-9)
    if x.grad[~mask].any():
        raise AssertionError(f"mask: the padding around images gets a gradient from {name}; {remedy}")


def _build(factory: GridMixerFactory, d_model: int, grid: Grid) -> GridMixer:
    return probe(lambda: factory(d_model, grid))
