"""What every registered forecasting model has to do."""

import inspect
import re
from functools import partial

import pytest
import torch
from torch import nn

from seqmix.errors import ConfigError
from seqmix.models import ForecastModel, list_models, model_facts
from seqmix.series import Series
from seqmix.testing import check_model

CONTEXT, HORIZON, C = 21, 5, 3


def make(name: str, **facts: int) -> ForecastModel:
    cls, _, example = model_facts(name)
    torch.manual_seed(0)
    return cls(Series(**{"n_channels": C, "context": CONTEXT, "horizon": HORIZON, **facts}), **example).eval()


def outputs_of(name: str) -> int:
    """Outputs per value that a model may be built for: any number, but for one with quantiles of its own."""
    return len(model_facts(name)[0].quantiles) or 2


@pytest.fixture(params=list_models())
def name(request):
    return request.param


def test_every_model_is_listed():
    names = [
        "AutoformerForecaster",
        "ConvForecaster",
        "DLinear",
        "DecoderForecaster",
        "EncoderForecaster",
        "FFNetTS",
        "MixerForecaster",
    ]
    names += ["Ridge", "SeasonalNaive", "TSM2", "ZeroShot"]
    assert list_models() == names


def test_contract(name):
    cls, _, example = model_facts(name)
    check_model(partial(cls, **example))


def test_facts_are_kept(name):
    model = make(name, n_outputs=outputs_of(name))
    assert model.series == Series(C, CONTEXT, HORIZON, outputs_of(name))


@pytest.mark.parametrize("window", ["random", "constant"])
def test_gradients_are_finite_and_reach_every_parameter(name, window):
    model = make(name, n_outputs=outputs_of(name))
    x = torch.randn(2, CONTEXT, C) if window == "random" else torch.full((2, CONTEXT, C), 3.0)
    y = model(x.requires_grad_())
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()
    for key, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), key
        # a constant window leaves nothing to scale
        assert p.grad.any() or window == "constant", key


# seconds each; MixerForecaster and EncoderForecaster have their parts, and mixers compile in the contract of mixers
LARGE = ("AutoformerForecaster", "DecoderForecaster", "TSM2", "ZeroShot")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in list_models()])
def test_compiles_to_one_graph(name):
    # one __call__ serves all classes, each a recompilation
    torch.compiler.reset()
    model, x = make(name), torch.randn(2, CONTEXT, C)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    y, z = model(x), compiled(x)
    torch.testing.assert_close(z, y)
    parameters = list(model.parameters())
    if parameters:
        expected = torch.autograd.grad(y.square().sum(), parameters)
        torch.testing.assert_close(torch.autograd.grad(z.square().sum(), parameters), expected)


def test_docstring_names_every_argument(name):
    cls, paper, _ = model_facts(name)
    doc = inspect.getdoc(cls) or ""
    documented = re.findall(r"^    (\w+): ", doc.split("Args:")[1].split("Raises:")[0], re.MULTILINE)
    # what a base documents is not said again
    assert ["series", *documented] == list(inspect.signature(cls).parameters)
    assert paper and "Source:" in doc


def test_an_empty_batch_gives_nothing(name):
    model = make(name, n_outputs=outputs_of(name))
    y = model(torch.empty(0, CONTEXT, C, requires_grad=True))
    assert y.shape == (0, HORIZON, C, outputs_of(name))
    y.sum().backward()


@pytest.mark.parametrize("shape", [(CONTEXT, C), (2, CONTEXT), (2, CONTEXT - 1, C), (2, 0, C), (2, CONTEXT, C, 1)])
def test_windows_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError) as error:
        make(name)(torch.randn(shape))
    assert str(error.value) == (
        f"{name} was built for real x of shape (B, 21, 3), got torch.float32 {shape}; build it for that"
    )
    for x in (torch.randn(2, CONTEXT, C + 1), torch.ones(2, CONTEXT, C, dtype=torch.long)):
        with pytest.raises(ValueError, match="was built for real x of shape"):
            make(name)(x)


def test_sizes_and_rates_out_of_range_are_refused_by_name(name):
    """Every number that a model takes: 0 or less of what is counted, a probability outside 0 to 1."""
    cls, _, example = model_facts(name)
    for option, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default
        if isinstance(default, float):
            wrong = [-0.1, 1.5]
        elif isinstance(default, bool) or not isinstance(default, int | tuple):
            continue
        else:
            wrong = [0, -1] if isinstance(default, int) else [(), (0,)]
        for value in wrong:
            with pytest.raises(ConfigError, match=option.removeprefix("head_")):
                cls(Series(C, CONTEXT, HORIZON), **{**example, option: value})


@pytest.mark.parametrize("context", [1, 2, 3, 15])
def test_short_windows_need_no_option(name, context):
    """Patches are as long as the window allows."""
    cls = model_facts(name)[0]
    y = cls(Series(2, context, 3)).eval()(torch.randn(2, context, 2))
    assert y.shape == (2, 3, 2) and y.isfinite().all()


def test_built_without_memory_and_loaded(name):
    """Nothing that the forecast needs is outside the state dict."""
    cls, _, example = model_facts(name)
    model, x = make(name), torch.randn(2, CONTEXT, C)
    with torch.device("meta"):
        twin = cls(Series(C, CONTEXT, HORIZON), **example).eval()
    twin.to_empty(device="cpu")
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data.fill_(7)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), model(x))


SHAPES = {"future": (2, CONTEXT + HORIZON, 2), "static": (2, C, 2), "past": (2, CONTEXT, 2)}


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("kinds", [["future"], ["static"], ["past"], ["future", "static", "past"]], ids="+".join)
def test_covariates_are_used_or_refused(name, kinds, outputs):
    facts = {"n_outputs": outputs, **{f"n_{kind}": 2 for kind in kinds}}
    if model_facts(name)[0].covariates == "refused":
        counts = " and ".join(f"n_{kind} = 2" for kind in kinds)
        with pytest.raises(ConfigError, match=f"{name} uses no covariates, the data has {counts}; use DLinear, Mixer"):
            make(name, **facts)
        return
    model, x = make(name, **facts), torch.randn(2, CONTEXT, C)
    with torch.no_grad():
        for p in model.parameters():
            # effects may be zero before they are fitted
            p.add_(0.1 * torch.randn_like(p))
    covariates = {kind: torch.randn(SHAPES[kind], requires_grad=True) for kind in kinds}
    y = model(x, **covariates)
    assert y.shape == ((2, HORIZON, C) if outputs == 1 else (2, HORIZON, C, outputs))
    (y * torch.randn_like(y)).sum().backward()
    for key, value in [*covariates.items(), *model.named_parameters()]:
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), key
    for kind in kinds:
        others = {key: value for key, value in covariates.items() if key != kind}
        with pytest.raises(ValueError, match=f"{name} was built with n_{kind} = 2 and got none; pass {kind}=..."):
            model(x, **others)
        with pytest.raises(ValueError, match=f"{name} was built for real {kind} of shape"):
            model(x, **{**others, kind: covariates[kind][..., :1]})


def test_an_own_model_refuses_covariates_unless_it_says_otherwise():
    class Last(ForecastModel):
        def forward(self, x, *, future=None, static=None, past=None):
            return x[:, -1:].expand(-1, self.series.horizon, -1)

    with pytest.raises(ConfigError) as error:
        Last(Series(C, CONTEXT, HORIZON, n_past=2))
    assert str(error.value) == (
        "Last uses no covariates, the data has n_past = 2; use DLinear, MixerForecaster, Ridge, TSM2, or leave "
        "them out of the data"
    )


def test_facts_of_a_class_are_true(name):
    """What a class says of itself is what it does."""
    cls, model, x = model_facts(name)[0], make(name), torch.randn(2, CONTEXT, C)
    y, moved = model(x), x.clone()
    moved[:, :, 0] += torch.randn(CONTEXT)
    assert torch.equal(model(moved)[..., 1], y[..., 1]) != cls.mixes_channels
    # an affine map sends the mean of two windows to the mean of two forecasts
    mean = torch.allclose(model((x + moved) / 2), (y + model(moved)) / 2, atol=1e-5)
    assert mean == cls.linear


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"context": 0}, "context must be at least 1, got 0; set it to 1 or more"),
        ({"n_past": -1}, "n_past must be at least 0, got -1; set it to 0 or more"),
    ],
)
def test_facts_out_of_range(facts, message):
    with pytest.raises(ConfigError) as error:
        Series(**{"n_channels": C, "context": CONTEXT, "horizon": HORIZON, **facts})
    assert str(error.value) == message
    series = Series(C, CONTEXT, HORIZON, n_future=2, n_past=1)
    assert series.covariates == {"future": 2, "past": 1} and series.without_covariates() == Series(C, CONTEXT, HORIZON)


class Mean(ForecastModel):
    """The mean of the window, times a learned weight: keeps the contract.

    Args:
        start: the weight at first.
    """

    def __init__(self, series: Series, *, start: float = 1.0):
        super().__init__(series)
        self.weight = nn.Parameter(torch.full((series.n_outputs,), start))

    def forward(self, x, *, future=None, static=None, past=None):
        y = (self.center(x).unsqueeze(-1) * self.weight).expand(-1, self.series.horizon, -1, -1)
        return y if self.series.n_outputs > 1 else y.squeeze(-1)

    def center(self, x):
        return x.mean(1, keepdim=True)


class OverTheBatch(Mean):
    def center(self, x):
        return x.mean((0, 1), keepdim=True).expand(len(x), 1, -1)


class Idle(Mean):
    def __init__(self, series: Series, *, start: float = 1.0):
        super().__init__(series, start=start)
        self.idle = nn.Parameter(torch.zeros(2))


class Wide(Mean):
    def center(self, x):
        return super().center(x.double())


class Deaf(Mean):
    covariates = "used"


class Short(Mean):
    def forward(self, x, **covariates):
        return super().forward(x)[:, 1:]


class Unsaid(Mean):
    def __init__(self, series: Series, *, start: float = 1.0, offset: float = 0.0):
        super().__init__(series, start=start)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (OverTheBatch, "batch: OverTheBatch mixes the windows of a batch; compute each by itself"),
        (Idle, "gradients: idle of Idle gets no gradient; use it in forward, or remove it"),
        (Wide, "dtypes: Wide makes torch.float64 of torch.float32; cast its buffers and constants to x.dtype"),
        (Deaf, "covariates: Deaf ignores future; use it, or set covariates = 'refused'"),
        (Short, "shapes: Short makes (1, 4, 1) of 1 windows with n_outputs = 1, not (1, 5, 1); return (B, horizon, C)"),
        (Unsaid, "signature: the docstring of Unsaid has no line for offset; add it to Args"),
    ],
)
def test_a_broken_model_is_caught(broken, message):
    check_model(Mean)
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_model(broken)
