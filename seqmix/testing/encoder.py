"""The contract of encoders of series."""

from functools import partial

import torch
from torch import Tensor

from seqmix.models import SeriesEncoder, SeriesEncoderFactory
from seqmix.testing._probes import (
    check_batch,
    check_dtypes,
    check_gradients,
    check_signature,
    check_state_dict,
    normal,
    probe,
)
from seqmix.testing.closeness import assert_close_ratio


def check_encoder(factory: SeriesEncoderFactory, *, n_channels: int = 3, length: int = 21) -> None:
    """Run the whole contract of encoders of series on encoders of ``factory``.

    Args:
        factory: an encoder class, or anything called as ``factory(n_channels, length)``.
        n_channels: channels to test with, at least 2.
        length: time steps of the windows to test with.

    Raises:
        AssertionError: at the first broken promise, with the remedy.
    """
    build = partial(factory, n_channels, length)
    encoder, x = probe(build), normal(3, length, n_channels)
    name = type(encoder).__name__
    check_signature(type(encoder), ("n_channels", "length"))
    _check_tokens(name, encoder, x)
    _check_tokens(name, probe(partial(factory, 1, length)), x[:1, :, :1])
    check_gradients(name, encoder, x.clone())
    check_batch(name, encoder, x)
    check_dtypes(name, build, x)
    check_state_dict(name, build, x)
    _check_mask(name, encoder, x)
    _check_channels(name, encoder, x)


def _check_tokens(name: str, encoder: SeriesEncoder, x: Tensor) -> None:
    y, (B, _, C) = encoder(x), x.shape
    if y.shape != (B, encoder.n_tokens, encoder.d_model):
        raise AssertionError(
            f"tokens: {name} makes {tuple(y.shape)} of {B} windows, and has n_tokens = {encoder.n_tokens}, d_model = "
            f"{encoder.d_model}; return (B, n_tokens, d_model)"
        )
    fits = {"time": True, "patches": encoder.n_tokens % C == 0, "variates": encoder.n_tokens == C}
    if not fits.get(encoder.axis):
        raise AssertionError(
            f"tokens: axis = {encoder.axis!r} of {name} does not go with {encoder.n_tokens} tokens of {C} channels; "
            "use time, patches (the same number for each channel), or variates (one for each)"
        )


def _check_mask(name: str, encoder: SeriesEncoder, x: Tensor) -> None:
    L = x.shape[1]
    assert_close_ratio(
        f"mask: {name} with a mask that keeps all steps gives other tokens than without one; None keeps all",
        encoder(x, x.new_ones(x.shape[:2], dtype=torch.bool)),
        encoder(x),
        1e-9,
    )
    # padding after the first item, before the second, all of the third
    step = torch.arange(L)
    mask = torch.stack([step < L - 4, step >= 4, step < 0])
    y = encoder(x.masked_fill(~mask.unsqueeze(-1), torch.nan), mask)
    z = encoder(x.masked_fill(~mask.unsqueeze(-1), 1e3), mask)
    assert_close_ratio(f"mask: {name} sees what is masked; pass the mask on to its mixers", z, y, 0)
    kept = encoder.kept(mask)
    if kept is not None and (kept.shape != y.shape[:2] or y[~kept].any()):
        raise AssertionError(
            f"mask: kept of {name} has shape {tuple(kept.shape)} for tokens {tuple(y.shape)}, and tokens that it "
            "leaves out should be zero; return (B, n_tokens), or None"
        )
    if torch.equal(y[:2], encoder(x)[:2]):
        raise AssertionError(f"mask: {name} ignores the mask; call the encoder, not its forward")


def _check_channels(name: str, encoder: SeriesEncoder, x: Tensor) -> None:
    C = x.shape[2]
    by_channel = encoder.axis != "time"
    moved = x.clone()
    moved[..., 0] += 1
    y, z = encoder(x), encoder(moved)
    if by_channel:
        y, z = y.unflatten(1, (C, -1))[:, 1:], z.unflatten(1, (C, -1))[:, 1:]
    if torch.equal(y, z) == encoder.mixes_channels:
        says = f"mixes_channels = {encoder.mixes_channels}"
        raise AssertionError(f"channels: {name} says {says} and does the opposite; set it in the class")
    if by_channel and not encoder.mixes_channels:
        order = torch.arange(C).roll(1)
        want = encoder(x).unflatten(1, (C, -1))[:, order].flatten(1, 2)
        message = f"channels: tokens of {name} do not follow the order of its channels; put the channel first"
        assert_close_ratio(message, encoder(x[..., order]), want, 1e-9)
