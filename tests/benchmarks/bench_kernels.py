"""The full empirical tangent kernel [n, 10, n, 10] of 784-512-512-10 relu, float32, on n images of MNIST.

The peer is the recipe of PyTorch's tutorial on neural tangent kernels: the Jacobian J [n, 10, p] by
`vmap(jacrev)`, then J Jᵀ (as one matrix product, faster than the tutorial's sum of einsums).
The bound is what the formula of `kernels.empirical_ntk` needs in floating-point operations, all entries
counted, at the speed of one large float32 matrix product measured beside it; ours computes half of them.
"""

from __future__ import annotations

import functools

import torch
from torch.func import functional_call, jacrev, vmap

from dlt_helpers import data, kernels, models
from tests.benchmarks import alternate, cpu_seconds, result, rounded, versions

SIZES, N, COUNTS, REPEATS = (784, 512, 512, 10), 100, (50, 100, 200, 500), 5


@functools.cache
def model():
    return models.mlp(SIZES, activation="relu", generator=torch.Generator().manual_seed(0))


@functools.cache
def inputs(n):
    return data.standardise(data.subset(data.mnist(), per_class=n // 10)).x.flatten(1)


def ours(n):
    return kernels.empirical_ntk(model(), inputs(n))


def jacobian_recipe(n):
    """Return the kernel from the Jacobian; 27 MB a sample."""
    parameters = {key: value.detach() for key, value in model().named_parameters()}
    one = vmap(jacrev(lambda p, x: functional_call(model(), p, (x[None],))[0]), (None, 0))
    kernel = 0
    for part in one(parameters, inputs(n)).values():
        flat = part.flatten(2).flatten(0, 1)                                                 # [n k, p_part]
        kernel = kernel + flat @ flat.T
    return kernel.view(n, SIZES[-1], n, SIZES[-1])


def operations(n):
    """Return the floating-point operations of the formula, all entries of the kernel, with both passes."""
    d, h1, h2, k = SIZES
    passes = 2 * n * (d * h1 + h1 * h2 + k * h2 * h1 + k * h2)
    return 2 * ((k * n) ** 2 * (h1 + h2) + n**2 * (d + h1 + h2)) + passes


def product_seconds(size=2048):
    a = torch.ones(size, size)
    return cpu_seconds(lambda: a @ a) / (2 * size**3)  # seconds an operation


def ntk_gram_vs_jacobian():
    """CPU seconds of both at n = 100, and ours against the bound for several n."""
    table = {}
    for n in COUNTS:
        ours(n)
        seconds, an_operation = alternate(lambda n=n: cpu_seconds(lambda: ours(n)), product_seconds, repeats=REPEATS)
        table[n] = {"seconds": seconds, "gflops_of_a_product": 1e-9 / an_operation,
                    "ratio_to_bound": seconds / (operations(n) * an_operation)}
    peer, reference = [], []
    peer.append(cpu_seconds(lambda: reference.append(jacobian_recipe(N))))
    exact = reference.pop()
    error = ((ours(N) - exact).norm() / exact.norm()).item()
    return result(ours=table[N]["seconds"], peer=peer[0], unit="CPU seconds",
                  accuracy={"relative difference": error},
                  settings={"network": "784-512-512-10 relu", "data": "MNIST 28×28", "n": N, "dtype": "float32",
                            "threads": 1, "repeats": f"{REPEATS} (peer: 1)", "block": 25,
                            "bound": {str(n): {key: rounded(value) for key, value in row.items()}
                                      for n, row in table.items()},
                            **versions()})


BENCHMARKS = {"ntk_gram_vs_jacobian": ntk_gram_vs_jacobian}
