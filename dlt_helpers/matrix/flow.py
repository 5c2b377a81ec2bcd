"""Gradient flow of a deep factorisation, and the equation that its singular values obey."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from .factors import product


@dataclass(frozen=True)
class Path:
    """A solution of dW_j/dt = −∂ℓ/∂W_j.

    Attributes:
        times: [T].
        factors: W_1 … W_L, each [T, out, in].
        n_evaluations: gradients computed.
    """

    times: Tensor
    factors: tuple[Tensor, ...]
    n_evaluations: int

    @property
    def product(self) -> Tensor:
        """W_L ⋯ W_1 [T, m, m']."""
        return product(self.factors)


def factor_velocities(gradient: Tensor, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return dW_j/dt = −(W_L ⋯ W_{j+1})ᵀ ∇ℓ(W) (W_{j−1} ⋯ W_1)ᵀ for j = 1 … L, [..., out, in] each.

    Args:
        gradient: ∇ℓ at the product, [..., m, m'].
        factors: W_1 … W_L.

    >>> factor_velocities(torch.tensor([[1.0]]), [torch.tensor([[2.0]]), torch.tensor([[3.0]])])
    (tensor([[-3.]]), tensor([[-2.]]))

    Source: arora2018optimization. Used in: matrix_factorization.
    """
    rights, velocities = [None], []
    for factor in factors[:-1]:                           # W_{j−1} ⋯ W_1
        rights.append(factor if rights[-1] is None else factor @ rights[-1])
    pulled = -gradient                                    # −(W_L ⋯ W_{j+1})ᵀ ∇ℓ
    for factor, right in zip(reversed(factors), reversed(rights), strict=True):
        velocities.append(pulled if right is None else pulled @ right.mT)
        pulled = factor.mT @ pulled
    return tuple(reversed(velocities))


def gradient_flow(gradient: Callable[[Tensor], Tensor], factors: Sequence[Tensor], times, *,
                  rtol: float = 1e-8, atol: float = 1e-11) -> Path:
    """Return the solution of dW_j/dt = −∂ℓ(W_L ⋯ W_1)/∂W_j at the given times, by an adaptive method of order 8.

    Args:
        gradient: W [m, m'] to ∇ℓ(W) [m, m'].
        factors: W_1 … W_L at times[0].
        times: [T], increasing.
        rtol, atol: local error allowed (relative; absolute, by entry of a factor).

    Raises:
        ValueError: if the start is not finite.
        RuntimeError: if the integrator gives up.

    >>> path = gradient_flow(lambda W: W - 1, [torch.zeros(1, 1, dtype=torch.float64)], [0.0, 1.0])
    >>> round(path.product[-1].item(), 6)  # 1 − 1/e
    0.632121

    Source: arora2019implicit. Used in: matrix_factorization.
    """
    shapes, like = [f.shape for f in factors], factors[0]
    sizes = [f.numel() for f in factors]

    def unpack(state):
        return [part.reshape(shape) for part, shape in zip(state.split(sizes), shapes, strict=True)]

    def velocity(_, state):
        now = unpack(torch.from_numpy(state).to(like))
        moved = factor_velocities(gradient(product(now)), now)
        return torch.cat([v.reshape(-1) for v in moved]).cpu().double().numpy()

    start = torch.cat([f.reshape(-1) for f in factors]).detach().cpu().double().numpy()
    if not np.isfinite(start).all():
        raise ValueError("the factors at the start must be finite, and they are not.")
    t = np.asarray(times, dtype=float)
    found = solve_ivp(velocity, (t[0], t[-1]), start, "DOP853", t_eval=t, rtol=rtol, atol=atol)
    if not found.success:
        raise RuntimeError(f"the integrator stopped after {len(found.t)} of {len(t)} times: {found.message}")
    states = torch.from_numpy(found.y.T.copy()).to(like).split(sizes, dim=1)
    path = tuple(s.reshape(-1, *shape) for s, shape in zip(states, shapes, strict=True))
    return Path(torch.from_numpy(t).to(like), path, int(found.nfev))


def singular_value_velocity(W: Tensor, gradient: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return σ_r, γ_r = ⟨∇ℓ(W), u_r v_rᵀ⟩ and dσ_r/dt = −L σ_r^{2−2/L} γ_r, [..., r] each.

    True for gradient flow on L factors that are balanced.

    Args:
        W: product [..., m, m'], with distinct singular values.
        gradient: ∇ℓ(W) [..., m, m'].
        depth: L.

    >>> W = torch.diag(torch.tensor([4.0, 1.0]))
    >>> singular_value_velocity(W, W, 2)[2]
    tensor([-32.,  -2.])

    Source: arora2019implicit, Theorem 3. Used in: matrix_factorization.
    """
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    force = torch.einsum("...ir,...ij,...rj->...r", U, gradient, Vh)
    return s, force, -depth * s ** (2 - 2 / depth) * force


def singular_value_ode(start: Tensor, force: Tensor, times: Tensor, depth: int) -> Tensor:
    """Return σ_r(t) [T, r] of dσ_r/dt = −L σ_r^{2−2/L} γ_r(t), σ_r(t_0) = start: solved by quadrature.

    The equation separates: F(σ(t)) = F(σ(t_0)) − L ∫γ with F(σ) = σ for L = 1, log σ for L = 2 and
    −σ^{−a}/a with a = 1 − 2/L for L ≥ 3. The integral of γ is by the trapezoidal rule on the given times,
    corrected at the ends of every step by differences of γ (order four).

    Args:
        start: [r], positive. force: γ_r [T, r] at the times [T].

    >>> t = torch.linspace(0, 1, 3)
    >>> singular_value_ode(torch.tensor([1.0]), -torch.ones(3, 1), t, 1)[:, 0].tolist()
    [1.0, 1.5, 2.0]

    Source: arora2019implicit. Used in: matrix_factorization.
    """
    slope = torch.gradient(force, spacing=(times,), dim=0)[0]                         # [T, r]
    steps = times.diff()[:, None]
    areas = steps * (force[1:] + force[:-1]) / 2 - steps**2 * slope.diff(dim=0) / 12
    total = depth * torch.cat([torch.zeros_like(force[:1]), areas.cumsum(0)])
    if depth == 1:
        return start - total
    if depth == 2:
        return start * torch.exp(-total)
    a = 1 - 2 / depth
    inner = start**-a + a * total                                                     # [T, r]
    return torch.where(inner > 0, inner.clamp_min(0) ** (-1 / a), torch.inf)
