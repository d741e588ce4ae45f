"""Every registered mixer keeps the contract, and mixers that break it are caught by the right check."""

import inspect
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers import Attention, Hydra, LongVQ, Mamba, Mamba2, Mixer, Pool, list_mixers, mixer_facts, zero_masked
from seqmix.models import Backbone, ChannelMLP, TokenModel
from seqmix.testing import CHECKS, assert_close_ratio, check_compile, check_mixer

# compiling takes seconds: one mixer of each kind stands for all, and test_ops_registration.py compiles every op; the
# rest, and further examples than the plainest, are left to the slow suite
COMPILED = ("Attention", "DeltaNet", "Hydra", "Hyena", "LongVQ", "Mamba", "MinGRU")
CASES = [
    pytest.param(
        partial(mixer_facts(name).cls, **example),
        check,
        id=f"{name}-{k}-{check.__name__.removeprefix('check_')}",
        marks=[pytest.mark.slow] if check is check_compile and (k or name not in COMPILED) else [],
    )
    for name in list_mixers()
    for k, example in enumerate(mixer_facts(name).examples)
    for check in CHECKS
]


@pytest.mark.parametrize(("factory", "check"), CASES)
def test_contract(factory, check):
    check(factory)


@pytest.mark.parametrize("name", list_mixers())
def test_sizes_below_one_are_refused(name):
    """Every option that is a number of something, and the width and the length."""
    facts = mixer_facts(name)
    for option, p in inspect.signature(facts.cls).parameters.items():
        if "int" not in str(p.annotation) or option == "window":
            continue
        # the option alone decides: not one that another option rules out
        options = {"max_len": 16, **facts.examples[0], option: 0}
        with pytest.raises(ConfigError, match=rf"{option} = 0 (is below 1|has no middle|does not make complex modes)"):
            facts.cls(**{"d_model": 8, **options})


@pytest.mark.parametrize("name", list_mixers())
def test_a_state_goes_with_its_batch(name):
    """A state of more or of fewer sequences is refused, one among them too, which would be broadcast; none is fine."""
    facts, x = mixer_facts(name), torch.randn(2, 3, 8)
    mixer = facts.cls(8, 12, **facts.examples[0])
    if not mixer.causal or mixer.pointwise:
        return
    refused = partial(pytest.raises, ValueError, match=r"^(the state is of \d seq|initial_state should have s)")
    for n in (1, 3):
        with refused():
            mixer.step(x[:, 0], mixer.init_state(n))
        if "state" in inspect.signature(facts.cls.forward).parameters:
            with refused():
                mixer(x, state=mixer.init_state(n), return_state=True)
    assert mixer.step(x[:0, 0], mixer.init_state(0))[0].shape == (0, 8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(Mamba, 8, dt_min=0.1, dt_max=0.01), "dt_min = 0.1 and dt_max = 0.01 are not 0 < dt_min <= dt_max"),
        (partial(Hydra, 8, headdim=4, dt_limit=(2.0, 1.0)), r"dt_limit = \(2.0, 1.0\) is not 0 <= smallest <= largest"),
        (partial(Mamba2, 8, headdim=4, dt_limit=0.5), "dt_limit = 0.5 is not 0 <= smallest <= largest step"),
        (partial(Mamba2, 8, headdim=4, A_init_range=1.0), "A_init_range = 1.0 is not 0 < slowest <= fastest"),
        (partial(Mamba2, 8, headdim=4, A_init_range=(0, 1)), r"A_init_range = \(0, 1\) is not 0 < slowest <= fastest"),
        (partial(Attention, 8, dropout=1.0), "dropout = 1.0 is not a fraction; use 0 or more, and less than 1"),
        (partial(LongVQ, 8, window=-1), "window = -1 is below 0; use window=0 or more"),
        (partial(ChannelMLP, 8, expand=0), "expand = 0 of d_model = 8 leaves no inner width; use expand=4"),
        (partial(Backbone, 8, 2, mixer=Pool, drop_path=1.0), "drop_path = 1.0 should be at least 0 and below 1"),
        (partial(Backbone, 8, 2, mixer=Pool, dropout=-0.1), "dropout = -0.1 is not a probability; use 0 to 1"),
        (partial(TokenModel, 0, mixer=Pool), "vocab_size = 0 is below 1; use vocab_size=1 or more"),
    ],
)
def test_ranges_are_checked(build, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        build()


class Sound(Mixer):
    """Causal mean, decaying: keeps the contract.

    Args:
        d_model: width.
        max_len: unused.
        decay: weight of one position back.
    """

    causal = True
    pure = True

    def __init__(self, d_model: int, max_len: int | None = None, *, decay: float = 0.5):
        super().__init__()
        self.decay = nn.Parameter(torch.full((d_model,), decay))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return zero_masked(torch.einsum("bdij,bjd->bid", self.matrix(x), zero_masked(x, mask)), mask)

    def matrix(self, x: Tensor) -> Tensor:
        i = torch.arange(x.shape[1])
        lag = (i[:, None] - i).clamp(min=0)
        return (self.decay[:, None, None] ** lag).tril().expand(len(x), -1, -1, -1)

    def init_state(self, batch_size: int) -> Tensor:
        return self.decay.new_zeros(batch_size, len(self.decay))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y = self.decay * state + x
        return y, y


def _undocumented(cls: type[Sound]):
    cls.__doc__ = "Mean.\n\nArgs:\n    d_model: width.\n    max_len: unused."


def _positional(cls: type[Sound]):
    def __init__(self, d_model, max_len=None, decay: float = 0.5):
        Sound.__init__(self, d_model)

    cls.__init__ = __init__


def _widens(cls: type[Sound]):
    cls.forward = lambda self, x, mask=None: Sound.forward(self.float(), x.float(), mask)


def _rounds(cls: type[Sound]):
    def forward(self, x, mask=None):
        y = Sound.forward(self, x, mask)
        return y.bfloat16().float() if y.dtype == torch.float32 else y

    cls.forward = forward


def _dead_parameter(cls: type[Sound]):
    def __init__(self, d_model, max_len=None, *, decay: float = 0.5):
        Sound.__init__(self, d_model)
        self.unused = nn.Parameter(torch.zeros(1))

    cls.__init__ = __init__


def _no_input_gradient(cls: type[Sound]):
    cls.forward = lambda self, x, mask=None: Sound.forward(self, x.detach(), mask)


def _mixes_batch(cls: type[Sound]):
    cls.forward = lambda self, x, mask=None: Sound.forward(self, x, mask) + 1e-6 * x.mean(0, keepdim=True)


def _ignores_mask(cls: type[Sound]):
    def forward(self, x, mask=None):
        zero_masked(x, mask)
        return zero_masked(Sound.forward(self, x), mask)

    cls.forward = forward


def _multiplies_by_mask(cls: type[Sound]):
    def forward(self, x, mask=None):
        return zero_masked(Sound.forward(self, x if mask is None else x * mask.unsqueeze(-1)), mask)

    cls.forward = forward


def _fills_padding(cls: type[Sound]):
    cls.forward = lambda self, x, mask=None: Sound.forward(self, zero_masked(x, mask))


def _counts_positions(cls: type[Sound]):
    def forward(self, x, mask=None):
        ramp = torch.arange(x.shape[1]).to(x).unsqueeze(-1)
        return Sound.forward(self, x + 1e-3 * ramp, mask)

    cls.forward = forward


def _sees_ahead(cls: type[Sound]):
    def forward(self, x, mask=None):
        x = zero_masked(x, mask)
        ahead = torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)
        return Sound.forward(self, x + 1e-9 * ahead, mask)

    cls.forward = forward


def _wrong_step(cls: type[Sound]):
    cls.step = lambda self, x, state: (self.decay * state + x, x)


def _step_in_place(cls: type[Sound]):
    def step(self, x, state):
        y = state.mul_(self.decay).add_(x)
        return y.clone(), state

    cls.step = step


def _wrong_matrix(cls: type[Sound]):
    cls.forward = lambda self, x, mask=None: 1.001 * Sound.forward(self, x, mask)
    cls.step = Mixer.step
    cls.causal = False


def _no_matrix(cls: type[Sound]):
    matrix = cls.matrix
    cls.forward = lambda self, x, mask=None: zero_masked(
        torch.einsum("bdij,bjd->bid", matrix(self, x), zero_masked(x, mask)), mask
    )
    cls.matrix = Mixer.matrix


def _forgets(cls: type[Sound]):
    def __init__(self, d_model, max_len=None, *, decay: float = 0.5):
        Sound.__init__(self, d_model)
        self.gain = torch.rand(()).item()

    cls.__init__ = __init__
    cls.forward = lambda self, x, mask=None: Sound.forward(self, self.gain * x, mask)
    cls.step = Mixer.step
    cls.causal = cls.pure = False


def _no_step(cls: type[Sound]):
    cls.step = Mixer.step


def _ignores_state(cls: type[Sound]):
    def forward(self, x, mask=None, *, state=None, return_state=False):
        y = Sound.forward(self, x, mask)
        return (y, y[:, -1]) if return_state else y

    cls.forward = forward


def _counts_padding(cls: type[Sound]):
    def forward(self, x, mask=None, *, state=None, return_state=False):
        start = self.init_state(len(x)) if state is None else state
        powers = self.decay ** torch.arange(1, x.shape[1] + 1)[:, None]
        y = zero_masked(Sound.forward(self, x, mask) + powers * start[:, None], mask)
        return (y, y[:, -1]) if return_state else y

    cls.forward = forward


def _buffer_that_is_not_saved(cls: type[Sound]):
    def __init__(self, d_model, max_len=None, *, decay: float = 0.5):
        Sound.__init__(self, d_model, decay=decay)
        self.register_buffer("one", torch.full((), 2.0), persistent=False)

    cls.__init__ = __init__
    cls.forward = lambda self, x, mask=None: Sound.forward(self, x, mask) * self.one
    cls.step = Mixer.step
    cls.causal = cls.pure = False


def _even_only(cls: type[Sound]):
    cls.forward = lambda self, x, mask=None: Sound.forward(self, x if x.shape[1] != 3 else x[:, :2], mask)


def _branches(cls: type[Sound]):
    def forward(self, x, mask=None):
        return Sound.forward(self, x if x.detach().sum() > 0 else 1 * x, mask)

    cls.forward = forward


def _noisy(cls: type[Sound]):
    cls.forward = lambda self, x, mask=None: Sound.forward(self, x, mask) * (1 + 1e-12 * torch.rand((), dtype=x.dtype))


BROKEN = [
    (_undocumented, "signature: docstring of Broken has no line for decay"),
    (_positional, "signature: option decay of Broken is positional or keyword"),
    (_widens, "dtypes: Broken makes torch.float32"),
    (_rounds, "dtypes: Broken in torch.float32 is off float64, ratio "),
    (_dead_parameter, "gradients: unused of Broken gets no gradient"),
    (_no_input_gradient, "gradients: the input of Broken gets no gradient"),
    (_mixes_batch, "batch: Broken mixes the sequences of a batch, ratio "),
    (_ignores_mask, "mask: Broken leaks padding on the left (filled with 1000), ratio "),
    (_multiplies_by_mask, "mask: Broken leaks padding on the right (filled with nan), ratio nan"),
    (_fills_padding, "mask: output of Broken is not zero at padding on the right"),
    (_counts_positions, "mask: Broken leaks padding on the left"),
    (_sees_ahead, "causality: Broken sees position 1 or later before it"),
    (_wrong_step, "step: Broken differs from forward, ratio "),
    (_step_in_place, "step: Broken changes the state it was given"),
    (_no_step, "step: Broken is causal but has no step(), which language models generate by; write init_state and"),
    (_ignores_state, "state: Broken in parts differs from forward, ratio "),
    (_counts_padding, "state: of Broken keeps padding on the right, ratio "),
    (_wrong_matrix, "matrix: Broken differs from forward, ratio 0.00"),
    (_no_matrix, "matrix: Broken is pure but has no matrix"),
    (_forgets, "state_dict: Broken does not keep all it learned"),
    (_buffer_that_is_not_saved, "state_dict: Broken made on the meta device does not load all it has, ratio "),
    (_even_only, "lengths: Broken makes (1, 2, 8) of (1, 3, 8)"),
    (_branches, "compile: Broken is not one graph"),
    (_noisy, "determinism: Broken changes between two calls in evaluation"),
]


def test_sound_mixer_passes():
    check_mixer(Sound)


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (torch.zeros(5, 8), None, "Pool takes real x (B, L, D), got torch.float32 (5, 8); use x.unsqueeze(0) or"),
        (torch.zeros(1, 5, 8).long(), None, "Pool takes real x (B, L, D), got torch.int64 (1, 5, 8); use x.uns"),
        (torch.zeros(1, 5, 7), None, "Pool was built with d_model = 8, got x (1, 5, 7); build it for that width"),
        (
            torch.zeros(1, 5, 8),
            torch.ones(1, 5),
            "mask should be bool (True = keep), got torch.float32;",
        ),
        (torch.zeros(2, 5, 8), torch.ones(1, 5).bool(), "mask should be (B, L) = (2, 5) to go with x, got (1, 5)"),
        (torch.zeros(0, 5, 8), torch.ones(0, 4).bool(), "mask should be (B, L) = (0, 5) to go with x, got (0, 4)"),
    ],
)
def test_inputs_that_no_mixer_takes(x, mask, message):
    """The base class checks them, for every mixer alike."""
    with pytest.raises(ValueError) as caught:
        Pool(8)(x, mask)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[d.__name__ for d, _ in BROKEN])
def test_broken_mixer_is_caught(damage, message):
    broken = type("Broken", (Sound,), {"__doc__": Sound.__doc__})
    damage(broken)
    with pytest.raises(AssertionError) as caught:
        check_mixer(broken)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (torch.tensor([3.0, 4.1]), "x, ratio 0.02 > 0.01 at shape (2,)"),
        (torch.tensor([3.0, float("nan")]), "x, ratio nan > 0.01 at shape (2,)"),
        (torch.tensor([3.0]), "x, shapes differ: (1,) against (2,)"),
    ],
)
def test_assert_close_ratio(got, message):
    want = torch.tensor([3.0, 4.0])
    assert_close_ratio("x", want, want, 0)
    with pytest.raises(AssertionError) as caught:
        assert_close_ratio("x", got, want, 0.01)
    assert str(caught.value) == message
