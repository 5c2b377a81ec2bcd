"""Bounds that count: how many functions, or how many sets of signs on n points, a class has."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check(*, delta=0.5, **counts):
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; a probability of failure lies between 0 and 1")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")


def finite_class(M, n: int, delta: float) -> float:
    """Return √(log(2M/δ)/(2n)) ≥ sup_f |R(f) − R̂ₙ(f)| with probability 1 − δ, for M functions.

    Source: [hoeffding1963probability] and a union bound. Used in: statistical_learning.

    >>> round(finite_class(1000, 800, 0.05), 4)
    0.0814
    """
    check(n=n, delta=delta)
    if M < 1:
        raise ValueError(f"M is {M}; a class has at least one function")
    return math.sqrt(math.log(2 * M / delta) / (2 * n))


def symmetrisation(rademacher: float, n: int, delta: float, *, empirical: bool = False) -> float:
    """Return 2 Rad + √(log(1/δ)/(2n)) ≥ sup_f (R(f) − R̂ₙ(f)) with probability 1 − δ.

    Args:
        rademacher: Rad_n of the loss class, or an upper bound of it.
        empirical: it is the complexity on the sample at hand; the second term is then 3 √(log(2/δ)/(2n)).

    Source: [bartlett2002rademacher]. Used in: statistical_learning.

    >>> round(symmetrisation(0.1, 800, 0.05), 4), round(symmetrisation(0.1, 800, 0.05, empirical=True), 4)
    (0.2433, 0.344)
    """
    check(n=n, delta=delta)
    slack = 3 * math.sqrt(math.log(2 / delta) / (2 * n)) if empirical else math.sqrt(math.log(1 / delta) / (2 * n))
    return 2 * float(rademacher) + slack


def massart(M, n: int, *, radius: float | None = None) -> float:
    """Return radius · √(2 log M)/n ≥ E max_a (1/n) Σ ε_i a_i over M vectors a of length at most `radius`.

    Args:
        radius: default √n/2, which is right for losses in [0, 1]: subtracting ½ does not change the complexity.

    Source: [massart2000some]. Used in: statistical_learning.

    >>> round(massart(1000, 800), 4)
    0.0657
    """
    check(n=n)
    if M < 1:
        raise ValueError(f"M is {M}; a maximum needs at least one vector")
    return (math.sqrt(n) / 2 if radius is None else radius) * math.sqrt(2 * math.log(M)) / n


def from_growth(log_growth: float, n: int, delta: float) -> float:
    """Return √(2 log(2Π(n))/n) + √(log(1/δ)/(2n)) ≥ sup_f |R(f) − R̂ₙ(f)| with probability 1 − δ (0-1 loss).

    Args:
        log_growth: natural logarithm of the growth function Π(n), or of an upper bound.

    Source: [vapnik1971uniform], in the form that symmetrisation and Massart's lemma give.
    Used in: statistical_learning.

    >>> round(from_growth(math.log(1000), 800, 0.05), 4)
    0.1811
    """
    check(n=n, delta=delta)
    return math.sqrt(2 * (math.log(2) + log_growth) / n) + math.sqrt(math.log(1 / delta) / (2 * n))


def vc(n: int, d: int, delta: float) -> float:
    """Return `from_growth` with the largest growth function of VC dimension d that Sauer and Shelah allow.

    Used in: statistical_learning, random_labels.

    >>> round(vc(800, 12, 0.05), 3)
    0.433
    """
    return from_growth(log_growth_sauer(n, d), n, delta)


def examples_needed(bound, target: float) -> int:
    """Return the least n, up to its eighth digit, with bound(n) ≤ target, for a bound that decreases in n.

    >>> examples_needed(lambda n: finite_class(1000, n, 0.05), 0.1)
    530
    """
    low, high = 0, 1  # bound(low) > target ≥ bound(high)
    while bound(high) > target:
        low, high = high, 2 * high
        if high > 2**80:
            raise ValueError(f"the bound is still above {target} at n = 2^80; is it decreasing?")
    while high - low > max(1, high >> 27):
        middle = (low + high) // 2
        low, high = (middle, high) if bound(middle) > target else (low, middle)
    return high


def sup_deviation(losses: Tensor, n: int, *, n_draws: int, generator: torch.Generator) -> Tensor:
    """Return max_f |R(f) − R̂ₙ(f)| for n_draws samples of n from a finite population, with replacement.

    The population is all there is, so that R is known exactly: it is the mean over a row.

    Args:
        losses: loss of every function on every example of the population, [M, N].

    Returns:
        [n_draws].

    Used in: statistical_learning.

    >>> sup_deviation(torch.tensor([[0.0, 1.0]]), 1, n_draws=3, generator=torch.Generator())
    tensor([0.5000, 0.5000, 0.5000])
    """
    check(n=n)
    N = losses.shape[1]
    drawn = torch.randint(N, (n_draws, n), generator=generator, device=generator.device).to(losses.device)
    share = torch.zeros(n_draws, N, dtype=losses.dtype, device=losses.device)
    share.scatter_add_(1, drawn, torch.full_like(drawn, 1 / n, dtype=losses.dtype))  # [n_draws, N]
    return (losses @ (share - 1 / N).T).abs().amax(0)  # [n_draws]


# ---- growth functions


def growth_sauer(n: int, d: int) -> int:
    """Return Σ_{i ≤ d} C(n, i), the most sets of signs on n points that a class of VC dimension d can have.

    Source: [sauer1972density; shelah1972combinatorial]. Used in: statistical_learning.

    >>> growth_sauer(5, 2), growth_sauer(3, 7)
    (16, 8)
    """
    _check_dimension(n, d)
    return sum(math.comb(n, i) for i in range(min(d, n) + 1))


def log_growth_sauer(n: int, d: int) -> float:
    """Return log Σ_{i ≤ d} C(n, i) without forming the number; memory of min(d, n) floats.

    >>> round(math.exp(log_growth_sauer(5, 2)))
    16
    """
    _check_dimension(n, d)
    if d >= n:
        return n * math.log(2)
    i = torch.arange(d + 1, dtype=torch.float64, device="cpu")
    top = torch.tensor(n + 1.0, dtype=torch.float64, device="cpu")
    return (torch.lgamma(top) - torch.lgamma(i + 1) - torch.lgamma(top - i)).logsumexp(0).item()


def relu_network_log2_growth(sizes, m: int) -> float:
    """Return an upper bound of log₂ Π(m) for the signs of a ReLU network with biases: Σ_i of a term per layer.

    With k_i units in layer i and W_i parameters in the layers up to i, the term is 1 + W_i log₂(2e m k_i i/W_i)
    where Warren's bound on sign patterns applies, m k_i ≥ W_i, but never more than m k_i, the number of signs.
    It is not cut off at m, so that it can be compared with m.

    Args:
        sizes: units of every layer from the inputs to the output, such as [784, 512, 1].

    Source: [warren1968lower; bartlett2019nearly]. Used in: statistical_learning, random_labels.

    >>> relu_network_log2_growth([2, 1], 2), round(relu_network_log2_growth([2, 1], 100), 1)
    (2.0, 23.5)
    """
    if len(sizes) < 2 or min(sizes) < 1 or sizes[-1] != 1:
        raise ValueError(f"sizes are {sizes}; give inputs, hidden layers and one output, such as [784, 512, 1]")
    check(m=m)
    total, W = 0.0, 0
    for i, (k_in, k) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        W += (k_in + 1) * k
        warren = 1 + W * math.log2(2 * math.e * m * k * i / W) if m * k >= W else math.inf
        total += min(float(m * k), warren)
    return total


def relu_network_vc(sizes) -> int:
    """Return the largest m at which the bound of `relu_network_log2_growth` allows 2^m sign patterns.

    No larger set is shattered, so it is an upper bound of the VC dimension: O(W L log W) for W parameters in
    L layers.

    >>> relu_network_vc([1, 1])  # truth: 2
    10
    """
    high = 1
    while relu_network_log2_growth(sizes, high) >= high:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if relu_network_log2_growth(sizes, middle) >= middle else (low, middle)
    return low


def _check_dimension(n, d):
    check(n=n)
    if d < 0:
        raise ValueError(f"d is {d}; a VC dimension is at least 0")
