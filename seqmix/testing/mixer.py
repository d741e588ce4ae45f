"""The mixer contract as functions: ``check_mixer(MyMixer)`` runs all of it, each check also stands alone.

A check takes ``(factory, *, d_model, max_len)`` and raises ``AssertionError`` with its own name, the mixer and the
numbers. Checks work in float64 with parameters moved off their initial values, since zeros and ones hide mistakes.
"""

import inspect
import re
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call

from seqmix.mixers.mixer import Mixer, MixerFactory
from seqmix.testing._probes import normal, probe
from seqmix.testing.closeness import assert_close_ratio

Check = Callable[..., None]

# float64 rounding through a few hundred operations, and the unnormalized transforms among them
_EXACT = 1e-9


def check_mixer(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """Run the whole mixer contract, ``CHECKS``, on mixers of ``factory``.

    Args:
        factory: a mixer class, or anything called as ``factory(d_model, max_len)``.
        d_model: width to test with.
        max_len: longest sequence to test with, at least 4.

    Raises:
        AssertionError: at the first broken promise, for example ``mask: Dense leaks padding on the left, ...``.
    """
    for check in CHECKS:
        check(factory, d_model=d_model, max_len=max_len)


def check_signature(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """Constructor is ``(d_model, max_len=None, *, typed options)`` and the docstring has a line for each."""
    cls = type(_build(factory, d_model, max_len))
    name, parameters = cls.__name__, inspect.signature(cls).parameters
    first, options = list(parameters)[:2], list(parameters.values())[2:]
    if first != ["d_model", "max_len"] or parameters["max_len"].default is not None:
        raise AssertionError(f"signature: {name} should begin with (d_model, max_len=None), has {tuple(parameters)}")
    for option in options:
        if option.kind is not option.KEYWORD_ONLY:
            raise AssertionError(f"signature: option {option.name} of {name} is {option.kind.description}")
        if option.annotation is option.empty or option.default is option.empty:
            raise AssertionError(f"signature: option {option.name} of {name} needs a type and a default")
    doc = inspect.getdoc(cls) or ""
    missing = [p for p in parameters if not re.search(rf"^ +{p}: \S", doc, re.MULTILINE)]
    if missing:
        raise AssertionError(f"signature: docstring of {name} has no line for {', '.join(missing)}")


def check_determinism(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """The same input gives the same output: in evaluation always, in training under one seed; x is left alone."""
    mixer = _build(factory, d_model, max_len)
    name = type(mixer).__name__
    x = normal(2, max_len, d_model)
    before = x.clone()
    for training in (False, True):
        mixer.train(training)
        with torch.random.fork_rng(devices=[]):
            first, second = (_seeded(mixer, x, 0 if training else seed) for seed in (0, 1))
        mode = "training" if training else "evaluation"
        assert_close_ratio(f"determinism: {name} changes between two calls in {mode}", first, second, 0)
    assert_close_ratio(f"determinism: {name} writes into its input", x, before, 0)


def check_dtypes(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """Output has shape and dtype of the input; float32 and bfloat16 agree with float64."""
    # eight and 24 bits of mantissa, times the rounding of a few layers
    tolerances = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
    x = normal(2, max_len, d_model).bfloat16()
    for dtype, ratio in tolerances.items():
        mixer = _build(factory, d_model, max_len).to(dtype)
        y = mixer(x.to(dtype))
        name = type(mixer).__name__
        if y.dtype != dtype or y.shape != x.shape:
            raise AssertionError(f"dtypes: {name} makes {y.dtype} {tuple(y.shape)} of {dtype} {tuple(x.shape)}")
        # the same rounded parameters, so that only the arithmetic differs
        assert_close_ratio(f"dtypes: {name} in {dtype} is off float64", y, mixer.double()(x.double()), ratio)


def check_gradients(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """Gradients reach the input and every parameter, are finite, and are not all zero."""
    mixer = _build(factory, d_model, max_len)
    grads = _gradients(mixer, mixer, normal(2, max_len, d_model))
    for name in ("the input", *(n for n, p in mixer.named_parameters() if p.requires_grad)):
        grad = grads.get(name)
        if grad is None or not grad.isfinite().all() or not grad.any():
            what = "no" if grad is None else "a zero" if grad.isfinite().all() else "a NaN or infinite"
            raise AssertionError(f"gradients: {name} of {type(mixer).__name__} gets {what} gradient")


def check_batch(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """Sequences of a batch do not see each other."""
    mixer = _build(factory, d_model, max_len)
    x = normal(3, max_len, d_model)
    alone = torch.cat([mixer(row.unsqueeze(0)) for row in x])
    assert_close_ratio(f"batch: {type(mixer).__name__} mixes the sequences of a batch", mixer(x), alone, _EXACT)


def check_mask(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """A padded batch gives the results of each sequence alone: outputs, and gradients of input and parameters.

    Padding on the right and on the left, filled with large numbers and with NaN; one sequence is all padding.
    """
    lengths = (max_len, max_len // 2 + 1, 1, 0)
    mixer = _build(factory, d_model, max_len)
    name = type(mixer).__name__
    sequences = [normal(1, n, d_model, seed=n).requires_grad_() for n in lengths if n]
    cotangents = [normal(1, n, d_model, seed=50 + n) for n in lengths if n]
    alone = [mixer(x) for x in sequences]
    torch.autograd.backward(alone, cotangents)
    want_grads = _parameter_grads(mixer)
    on_the_right = torch.arange(max_len) < torch.tensor(lengths)[:, None]  # (B, L)
    for fill in (1e3, float("nan")):
        for side, mask in (("right", on_the_right), ("left", on_the_right.flip(1))):
            x = torch.full((len(lengths), max_len, d_model), fill, dtype=torch.float64)
            x[mask] = torch.cat(sequences, 1)[0].detach()
            cotangent = torch.ones_like(x)
            cotangent[mask] = torch.cat(cotangents, 1)[0]
            mixer.zero_grad()
            y = mixer(x.requires_grad_(), mask)
            y.backward(cotangent)
            where = f"on the {side} (filled with {fill:g})"
            assert_close_ratio(f"mask: {name} leaks padding {where}", y[mask], torch.cat(alone, 1)[0], _EXACT)
            if not torch.equal(y[~mask], torch.zeros_like(y[~mask])):
                raise AssertionError(f"mask: output of {name} is not zero at padding {where}")
            grad = x.grad if x.grad is not None else torch.full_like(x, float("nan"))
            if not torch.equal(grad[~mask], torch.zeros_like(grad[~mask])):
                raise AssertionError(f"mask: input gradient of {name} is not zero at padding {where}")
            want = torch.cat([s.grad for s in sequences if s.grad is not None], 1)[0]
            assert_close_ratio(f"mask: input gradient of {name} sees padding {where}", grad[mask], want, _EXACT)
            for p, got in _parameter_grads(mixer).items():
                assert_close_ratio(f"mask: gradient of {p} of {name} sees padding {where}", got, want_grads[p], _EXACT)


def check_causality(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """A causal mixer gives bit for bit the same outputs before a change."""
    mixer = _build(factory, d_model, max_len)
    if not mixer.causal:
        return
    x = normal(2, max_len, d_model)
    y = mixer(x)
    for t in range(1, max_len):
        changed = torch.cat([x[:, :t], -3 * x[:, t:]], 1)
        if not torch.equal(mixer(changed)[:, :t], y[:, :t]):
            raise AssertionError(f"causality: {type(mixer).__name__} sees position {t} or later before it")


def check_step(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """``step`` along a sequence gives the result of ``forward``, and does not modify the given states."""
    mixer = _build(factory, d_model, max_len)
    name = type(mixer).__name__
    if type(mixer).step is Mixer.step and not mixer.pointwise:
        if mixer.causal:
            raise AssertionError(
                f"step: {name} is causal but has no step(), which language models generate by; write init_state and "
                "step, or leave causal = False"
            )
        return
    if not mixer.causal:
        try:
            mixer.init_state(2)
        except TypeError:
            return
        raise AssertionError(f"step: {name} is not causal here, but init_state does not raise TypeError")
    x = normal(2, max_len, d_model)
    start = mixer.init_state(2)
    state, outputs = start, []
    for position in x.unbind(1):
        y, state = mixer.step(position, state)
        outputs.append(y)
    assert_close_ratio(f"step: {name} differs from forward", torch.stack(outputs, 1), mixer(x), _EXACT)
    again, _ = mixer.step(x[:, 0], start)
    assert_close_ratio(f"step: {name} changes the state it was given", again, outputs[0], 0)


def check_state(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """Where ``forward`` takes a state, parts of a sequence give the result of the whole, and so do their gradients.

    Padding on either side leaves no trace in the state, and a step goes on from it.
    """
    mixer = _build(factory, d_model, max_len)
    name = type(mixer).__name__
    if "state" not in inspect.signature(type(mixer).forward).parameters:
        return
    x = normal(2, max_len, d_model)
    if not mixer.causal:
        try:
            mixer(x, return_state=True)
        except TypeError:
            return
        raise AssertionError(f"state: {name} sees later positions here, but return_state does not raise TypeError")

    def in_parts(x: Tensor) -> Tensor:
        state, ys = mixer.init_state(len(x)), []
        for part in x.split([1, max_len - 4, 3], 1):
            y, state = mixer(part, state=state, return_state=True)
            ys.append(y)
        return torch.cat(ys, 1)

    assert_close_ratio(f"state: {name} in parts differs from forward", in_parts(x), mixer(x), _EXACT)
    got, want = _gradients(in_parts, mixer, x), _gradients(mixer, mixer, x)
    for p, grad in want.items():
        assert_close_ratio(f"state: the gradient of {p} of {name} in parts differs", got[p], grad, _EXACT)
    # two positions follow
    lengths = torch.tensor([max_len - 2, 1, 0])
    on_the_right = torch.arange(max_len) < lengths[:, None]  # (B, L)
    head, tail = normal(3, max_len, d_model), normal(3, 2, d_model, seed=1)
    for side, mask in (("right", on_the_right), ("left", on_the_right.flip(1))):
        padded = torch.full_like(head, float("nan"))
        padded[mask] = torch.cat([row[:n] for row, n in zip(head, lengths.tolist(), strict=True)])
        first, state = mixer(padded, mask, return_state=True)
        whole = mixer(padded, mask)
        assert_close_ratio(f"state: {name} leaks padding on the {side} into its output", first, whole, _EXACT)
        y, state = mixer(tail[:, :1], torch.ones(3, 1, dtype=torch.bool), state=state, return_state=True)
        after, _ = mixer.step(tail[:, 1], state)
        for i, n in enumerate(lengths.tolist()):
            alone = mixer(torch.cat([head[i : i + 1, :n], tail[i : i + 1]], 1))[0, n:]
            got = torch.stack([y[i, 0], after[i]])
            assert_close_ratio(f"state: of {name} keeps padding on the {side}", got, alone, _EXACT)


def check_matrix(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """``matrix`` is ``(B, G, L, L)``; lower triangular if causal; its product with x is ``forward`` if pure."""
    mixer = _build(factory, d_model, max_len)
    name = type(mixer).__name__
    x = normal(2, max_len - 1, d_model)
    try:
        M = mixer.matrix(x)  # (B, G, L, L)
    except TypeError as e:
        if mixer.pure:
            raise AssertionError(f"matrix: {name} is pure but has no matrix: {e}") from e
        return
    B, L, D = x.shape
    if M.ndim != 4 or (M.shape[0], *M.shape[2:]) != (B, L, L):
        raise AssertionError(f"matrix: {name} returns {tuple(M.shape)}, should be ({B}, G, {L}, {L})")
    if mixer.causal and M.triu(1).any():
        raise AssertionError(f"matrix: {name} is causal but its matrix has entries above the diagonal")
    if mixer.pure:
        G = M.shape[1]
        if D % G:
            raise AssertionError(f"matrix: {name} has {G} groups, which do not divide d_model = {D}")
        y = torch.einsum("bgij,bjgp->bigp", M, x.view(B, L, G, D // G)).reshape(B, L, D)
        assert_close_ratio(f"matrix: {name} differs from forward", y, mixer(x), _EXACT)


def check_state_dict(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """A fresh instance with the saved state gives the same output: made as usual, or on the meta device.

    So does a call with other tensors in place of the parameters, as ``torch.func`` makes it.
    """
    mixer = _build(factory, d_model, max_len)
    name, x = type(mixer).__name__, normal(2, max_len, d_model)
    want, state = mixer(x), mixer.state_dict()
    fresh = _build(factory, d_model, max_len, seed=1)
    fresh.load_state_dict(state, strict=True)
    assert_close_ratio(f"state_dict: {name} does not keep all it learned", fresh(x), want, 0)
    given = functional_call(_build(factory, d_model, max_len, seed=1), {k: v.clone() for k, v in state.items()}, (x,))
    assert_close_ratio(f"state_dict: {name} does not use the parameters of a functional call", given, want, _EXACT)
    with torch.device("meta"):
        fresh = factory(d_model, max_len)
    fresh = fresh.double().eval().to_empty(device="cpu")
    fresh.load_state_dict(state, strict=True)
    assert_close_ratio(f"state_dict: {name} made on the meta device does not load all it has", fresh(x), want, _EXACT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = factory(d_model, max_len).double().state_dict()
        torch.manual_seed(0)
        fresh.reset_parameters()
    for key, tensor in fresh.state_dict().items():
        assert_close_ratio(f"state_dict: reset_parameters of {name} draws another {key}", tensor, built[key], 0)


def check_lengths(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """Length 1, odd lengths, a batch of one, none, and length 0 work, and strides of the input do not matter."""
    mixer = _build(factory, d_model, max_len)
    name = type(mixer).__name__
    odd = max_len - 1 + max_len % 2
    for shape in ((1, 1), (1, 2), (1, 3), (1, odd), (1, max_len), (0, max_len), (2, 0)):
        y = mixer(normal(*shape, d_model))
        if y.shape != (*shape, d_model) or not y.isfinite().all():
            got = f"{tuple(y.shape)} of {(*shape, d_model)}"
            raise AssertionError(f"lengths: {name} makes {got}, or values that are not finite")
    x = normal(2, max_len, 2 * d_model)
    for strided in (x[..., ::2], x[..., :d_model].transpose(0, 1).contiguous().transpose(0, 1)):
        want = mixer(strided.contiguous())
        assert_close_ratio(f"lengths: {name} depends on the strides of its input", mixer(strided), want, _EXACT)


def check_compile(factory: MixerFactory, *, d_model: int = 8, max_len: int = 12) -> None:
    """``torch.compile`` takes forward and backward as one graph and changes nothing."""
    # dynamo loads when it is needed: it takes longer than all other checks
    from torch._dynamo.exc import TorchDynamoException

    mixer = _build(factory, d_model, max_len)
    name = type(mixer).__name__
    torch.compiler.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    x = normal(2, max_len, d_model)
    try:
        y = compiled(x)
    except TorchDynamoException as e:
        raise AssertionError(f"compile: {name} is not one graph: {e}") from e
    assert_close_ratio(f"compile: {name} changes its output", y, mixer(x), _EXACT)
    got, want = _gradients(compiled, mixer, x), _gradients(mixer, mixer, x)
    for p, grad in want.items():
        assert_close_ratio(f"compile: {name} changes the gradient of {p}", got[p], grad, _EXACT)


CHECKS: tuple[Check, ...] = (
    check_signature,
    check_determinism,
    check_dtypes,
    check_gradients,
    check_batch,
    check_mask,
    check_causality,
    check_step,
    check_state,
    check_matrix,
    check_state_dict,
    check_lengths,
    check_compile,
)


def _build(factory: MixerFactory, d_model: int, max_len: int, seed: int = 0) -> Mixer:
    return probe(lambda: factory(d_model, max_len), seed, noise=0.2)


def _gradients(forward: Callable[[Tensor], Tensor], mixer: Mixer, x: Tensor) -> dict[str, Tensor]:
    """Gradients of ``forward(x)`` against a fixed cotangent: those that reach the input and the parameters."""
    mixer.zero_grad()
    x = x.clone().requires_grad_()
    y = forward(x)
    if y.requires_grad:
        y.backward(normal(*y.shape, seed=1))
    return ({} if x.grad is None else {"the input": x.grad}) | _parameter_grads(mixer)


def _parameter_grads(mixer: Mixer) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in mixer.named_parameters() if p.grad is not None}


def _seeded(mixer: Mixer, x: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return mixer(x)
