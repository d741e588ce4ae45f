"""The contract of forecasting models."""

import inspect
import re
from dataclasses import replace

import torch
from torch import Tensor

from seqmix.errors import ConfigError
from seqmix.models import ForecastModel, ForecastModelFactory
from seqmix.series import Series
from seqmix.testing.closeness import assert_close_ratio

_SERIES = Series(n_channels=3, context=21, horizon=5)


def check_model(factory: ForecastModelFactory, *, series: Series = _SERIES) -> None:
    """Run the whole contract of forecasting models on what ``factory`` makes.

    Args:
        factory: a model class, or anything called as ``factory(series)``.
        series: facts of the data to test with; covariates are tested beside them.

    Raises:
        AssertionError: at the first broken promise, with the remedy.
    """
    cls = type(_build(factory, series))
    name, own = cls.__name__, len(cls.quantiles)
    _check_signature(name, cls)
    _check_shapes(name, factory, series, own or 3)
    _check_gradients(name, factory, replace(series, n_outputs=own or 2))
    _check_batch(name, factory, series)
    _check_dtypes(name, factory, series)
    _check_state_dict(name, factory, series)
    _check_covariates(name, factory, series)


def _check_signature(name: str, cls: type[ForecastModel]) -> None:
    options = list(inspect.signature(cls).parameters.values())
    if not options or options[0].name != "series":
        raise AssertionError(f"signature: {name} should begin with (series); the facts of the data come first")
    for option in options[1:]:
        if option.kind is not option.KEYWORD_ONLY or option.annotation is option.empty:
            raise AssertionError(f"signature: option {option.name} of {name} should be typed and stand after a *")
    documented = "\n".join(inspect.getdoc(base) or "" for base in cls.__mro__ if issubclass(base, ForecastModel))
    missing = [p.name for p in options if not re.search(rf"^ +{p.name}: \S", documented, re.MULTILINE)]
    if missing:
        raise AssertionError(f"signature: the docstring of {name} has no line for {', '.join(missing)}; add it to Args")


def _check_shapes(name: str, factory: ForecastModelFactory, series: Series, many: int) -> None:
    for batch, channels, outputs in ((1, 1, 1), (2, series.n_channels, many)):
        facts = replace(series, n_channels=channels, n_outputs=outputs)
        y = _build(factory, facts)(_window(facts, batch))
        want = (batch, series.horizon, channels, *((outputs,) if outputs > 1 else ()))
        if y.shape != want:
            raise AssertionError(
                f"shapes: {name} makes {tuple(y.shape)} of {batch} windows with n_outputs = {outputs}, not {want}; "
                "return (B, horizon, C), with a last axis of n_outputs where it is over 1"
            )


def _check_gradients(name: str, factory: ForecastModelFactory, series: Series) -> None:
    model = _build(factory, series)
    x = _window(series, 2).requires_grad_()
    y = model(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype))
    for key, tensor in (("the input", x), *model.named_parameters()):
        if tensor.requires_grad and (tensor.grad is None or not tensor.grad.isfinite().all() or not tensor.grad.any()):
            what = "no" if tensor.grad is None else "a zero, NaN or infinite"
            raise AssertionError(f"gradients: {key} of {name} gets {what} gradient; use it in forward, or remove it")


def _check_batch(name: str, factory: ForecastModelFactory, series: Series) -> None:
    model, x = _build(factory, series), _window(series, 3)
    before, y = x.clone(), model(x)
    alone = torch.cat([model(row.unsqueeze(0)) for row in x])
    # a single window may take another kernel: a few roundings of float64
    assert_close_ratio(f"batch: {name} mixes the windows of a batch; compute each by itself", y, alone, 1e-9)
    assert_close_ratio(f"batch: {name} remembers the window before; keep no state between calls", model(x), y, 0)
    assert_close_ratio(f"batch: {name} writes into its input; work on a copy", x, before, 0)
    view = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close_ratio(f"batch: {name} depends on the strides of its input; use reshape", model(view), y, 1e-9)


def _check_dtypes(name: str, factory: ForecastModelFactory, series: Series) -> None:
    x = _window(series, 2).bfloat16()
    want = _build(factory, series)(x.double())
    # 24 and eight bits of mantissa, and a dozen roundings that follow each other
    for dtype, ratio in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
        y = _build(factory, series).to(dtype)(x.to(dtype))
        if y.dtype != dtype:
            raise AssertionError(
                f"dtypes: {name} makes {y.dtype} of {dtype}; cast its buffers and constants to x.dtype"
            )
        assert_close_ratio(f"dtypes: {name} in {dtype} is off float64", y, want, ratio)


def _check_state_dict(name: str, factory: ForecastModelFactory, series: Series) -> None:
    model, twin, x = _build(factory, series), _build(factory, series, seed=1), _window(series, 2)
    twin.load_state_dict(model.state_dict())
    message = f"state dict: {name} with loaded weights forecasts otherwise; register what it learns as parameters"
    assert_close_ratio(message, twin(x), model(x), 0)


def _check_covariates(name: str, factory: ForecastModelFactory, series: Series) -> None:
    facts = replace(series, n_future=2, n_static=2, n_past=2)
    if _build(factory, series).covariates == "refused":
        try:
            factory(facts)
        except ConfigError:
            return
        raise AssertionError(f"covariates: {name} takes what it does not use; call super().__init__(series)")
    model, x = _build(factory, facts), _window(series, 2)
    given = {
        "future": _normal(2, series.context + series.horizon, 2, seed=2),
        "static": _normal(2, series.n_channels, 2, seed=3),
        "past": _normal(2, series.context, 2, seed=4),
    }
    y = model(x, **given)
    for kind, value in given.items():
        z = model(x, **{**given, kind: value + torch.tensor([0.0, 1.0], dtype=value.dtype).view(2, 1, 1)})
        if torch.equal(z[1], y[1]):
            raise AssertionError(f"covariates: {name} ignores {kind}; use it, or set covariates = 'refused'")
        assert_close_ratio(f"covariates: {name} gives {kind} of a window to another one", z[0], y[0], 1e-9)


def _build(factory: ForecastModelFactory, series: Series, seed: int = 0) -> ForecastModel:
    """A model in float64 and evaluation mode, its parameters moved off their initial values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory(series).double().eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return model


def _window(series: Series, batch: int) -> Tensor:
    return _normal(batch, series.context, series.n_channels)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
