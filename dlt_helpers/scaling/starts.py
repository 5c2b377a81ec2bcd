"""Where to start a surface fit: variable projection, so that only two or three exponents are searched."""

from __future__ import annotations

import torch
from torch import Tensor

FLOORS = (0.02, 0.3, 0.6, 0.8, 0.9, 0.96, 0.99)  # E as a share of the least loss
EXPONENTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.65, 0.85, 1.1, 1.5, 2.0)


def grid(x: Tensor, y: Tensor, z: Tensor, counts: Tensor, *, form: str, keep: int) -> Tensor:
    """Return the `keep` best starts θ [keep, 5] = (a, b, e, α, q) over a grid of E and of two exponents.

    With E and the exponents held fixed, (L − E)^(1/γ) = A N^−α + B D^−β is linear in A, B ≥ 0: a weighted least-squares
    problem in closed form, with the weights that make its residuals those of log L to first order.

    Args:
        x, y, z: [m] centred log N, centred log D, log L. counts: [m].
    """
    loss = z.exp()
    E = torch.tensor(FLOORS, dtype=x.dtype, device=x.device) * loss.min()
    first = torch.tensor(EXPONENTS, dtype=x.dtype, device=x.device)
    e, alpha, q = (part.reshape(-1, 1) for part in torch.meshgrid(E, first, first, indexing="ij"))  # [g, 1]
    beta, gamma = (torch.ones_like(q), q) if form == "kaplan" else (q, torch.ones_like(q))
    target = (loss - e) ** (1 / gamma)  # [g, m]
    weight = counts * (gamma * (loss - e) / (loss * target)) ** 2
    u, v = torch.exp(-alpha * x), torch.exp(-beta * y)
    A, B = nonnegative(*((weight * first * second).sum(1) for first, second in
                         ((u, u), (u, v), (v, v), (u, target), (v, target))))
    fitted = e + (A[:, None] * u + B[:, None] * v) ** gamma
    misfit = ((z - fitted.log()).abs() * counts).sum(1)
    best = misfit.nan_to_num(nan=torch.inf).argsort()[:keep]
    tiny = 1e-9
    logs = [part.clamp(min=tiny).log() for part in (A, B, e[:, 0])]
    return torch.stack([*logs, alpha[:, 0], q[:, 0]], dim=1)[best]


def nonnegative(uu: Tensor, uv: Tensor, vv: Tensor, ut: Tensor, vt: Tensor) -> tuple[Tensor, Tensor]:
    """Return the A, B ≥ 0 that minimise ‖A u + B v − t‖², from inner products [g].

    >>> one = torch.ones(1)
    >>> nonnegative(one, 0 * one, one, 2 * one, -one)  # u ⊥ v, t = 2 u − v
    (tensor([2.]), tensor([0.]))
    """
    det = uu * vv - uv**2
    A, B = (ut * vv - vt * uv) / det, (vt * uu - ut * uv) / det
    only_u, only_v = (ut / uu).clamp(min=0), (vt / vv).clamp(min=0)
    inside = (A >= 0) & (B >= 0)
    u_wins = only_u * ut >= only_v * vt  # the decrease ½ (ut)²/uu of one column alone
    return (torch.where(inside, A, torch.where(u_wins, only_u, 0.0)),
            torch.where(inside, B, torch.where(u_wins, 0.0, only_v)))
