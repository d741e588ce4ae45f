"""Draws of Gaussian processes whose kernels are random sums and products (KernelSynth)."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ive

FEATURES = 64
KERNELS = ("periodic", "rbf", "rational_quadratic", "linear", "white", "constant")
MOST = 5


def kernel_synth(n: int, length: int, *, period: ArrayLike = 0, rng: np.random.Generator) -> np.ndarray:
    """Gaussian processes with one to five kernels of random kind and scale, joined by + and x at random.

    The first kernel is periodic where a period is given.

    Args:
        n: number of series.
        length: their length.
        period: of the periodic kernels of each series ``(n,)``, or of all; 0 for none.
        rng: generator of random numbers.

    Returns:
        Series ``(n, length)``.

    Source: KernelSynth of Chronos (Ansari et al., 2024, arXiv:2403.07815, algorithm 2). Differs from it in: draws by
    random Fourier features, not by a Cholesky factor.
    """
    period = np.broadcast_to(np.asarray(period, float), n)
    kinds = rng.integers(0, len(KERNELS), (n, MOST))
    kinds[:, 0] = np.where(period > 1, KERNELS.index("periodic"), kinds[:, 0])
    without = (kinds == KERNELS.index("periodic")) & (period <= 1)[:, None]
    kinds[without] = KERNELS.index("rbf")
    times = rng.random((n, MOST)) < 0.5
    used = np.arange(MOST) < rng.integers(1, MOST + 1, (n, 1))
    scales = np.exp(rng.uniform(np.log(0.02), np.log(1), (n, MOST)))
    return gaussian_process(length, kinds, times, used, scales, period, rng.random(n), rng)


def gaussian_process(
    length: int,
    kinds: np.ndarray,
    times: np.ndarray,
    used: np.ndarray,
    scales: np.ndarray,
    period: np.ndarray,
    center: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw with the kernel ``((k_1 o k_2) o k_3) ...``, where each ``o`` is + or x, by random Fourier features::

        f(t) = sqrt(2 v / F) sum_j g_j(t) cos(w_j t + b_j)

    A frequency of a sum of kernels is one of its terms, in proportion to their variance; that of a product is the sum
    of a frequency of each. A linear kernel puts ``g_j(t) = t / length - c`` into the product. The covariance is that
    of the kernel for any number of features.

    Args:
        length: length of the series.
        kinds: number in ``KERNELS`` of each kernel ``(n, K)``.
        times: whether each kernel, from the second on, multiplies ``(n, K)``; it is added otherwise.
        used: which kernels there are ``(n, K)``, the first one always.
        scales: length scale of RBF and rational quadratic (alpha 1) as a part of ``length``; of the periodic one
            ``exp(-2 sin^2(pi t / period) / l^2)`` it is ``l / 2``.
        period: of the periodic kernels ``(n,)``.
        center: zero c of the linear kernels, as a part of ``length`` ``(n,)``.
        rng: generator of random numbers.

    Returns:
        Series ``(n, length)``.
    """
    n = len(kinds)
    frequency, degree, variance = np.zeros((n, FEATURES)), np.zeros((n, FEATURES), int), np.zeros((n, 1))
    for k in range(kinds.shape[1]):
        kind, present = kinds[:, k : k + 1], used[:, k : k + 1]
        new = _frequencies(kind, scales[:, k : k + 1], period[:, None], length, rng)
        linear = np.broadcast_to(kind == KERNELS.index("linear"), new.shape).astype(int)
        product = times[:, k : k + 1] & (k > 0)
        chosen = ~product & (rng.random((n, FEATURES)) < 1 / (variance + 1))
        frequency = np.where(present & product, frequency + new, np.where(present & chosen, new, frequency))
        degree = np.where(present & product, degree + linear, np.where(present & chosen, linear, degree))
        # every kernel has variance 1 but for the growth of linear ones
        variance = variance + (present & ~product)
    t = np.arange(length)
    slope = t / length - center[:, None]
    waves = np.cos(frequency[..., None] * t + 2 * np.pi * rng.random((n, FEATURES, 1)))  # (n, FEATURES, length)
    by_degree = (((degree == d)[:, None] @ waves)[:, 0] * slope**d for d in range(degree.max() + 1))
    return np.sqrt(2 * variance / FEATURES) * sum(by_degree)


def _frequencies(
    kind: np.ndarray, scale: np.ndarray, period: np.ndarray, length: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws ``(n, FEATURES)`` of the spectral densities of kernels of these kinds ``(n, 1)``."""
    size = (len(kind), FEATURES)
    normal = rng.standard_normal(size)
    # harmonic k of the periodic kernel has the weight of a Bessel function
    weights = ive(np.arange(33), 1 / np.square(2 * scale))  # (n, 33)
    weights[:, 1:] *= 2
    ends = np.cumsum(weights, 1) / weights.sum(1, keepdims=True)
    harmonic = (rng.random(size)[..., None] > ends[:, None]).sum(-1)
    choices = {
        "periodic": 2 * np.pi * harmonic / np.maximum(period, 1),
        "rbf": normal / (scale * length),
        "rational_quadratic": normal * np.sqrt(rng.standard_exponential(size)) / (scale * length),
        "white": rng.uniform(0, 2 * np.pi, size),
    }
    return np.select([kind == KERNELS.index(name) for name in choices], list(choices.values()), 0.0)
