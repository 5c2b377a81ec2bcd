"""Power laws in one variable with their intervals, isoFLOP parabolas, and the law of the batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient · x^exponent, fitted as a line in log x and log y, or a batch of such laws […].

    Attributes:
        exponent, coefficient: […].
        std_err: […] standard error of the exponent if the residuals of log y are independent; nan for two points.
        residual: […] their standard deviation, with m − 2 degrees of freedom.
        points: m. centre, spread: […] mean of log x, and Σ (log x − centre)².
    """

    exponent: Tensor
    coefficient: Tensor
    std_err: Tensor
    residual: Tensor
    points: int
    centre: Tensor = field(repr=False)
    spread: Tensor = field(repr=False)

    def __call__(self, x: Tensor | float) -> Tensor:
        """Return coefficient · x^exponent: […] for a number, […, k] for x [k]."""
        x = torch.as_tensor(x, dtype=self.exponent.dtype, device=self.exponent.device)
        a, b = (z[..., None] if x.ndim else z for z in (self.coefficient, self.exponent))
        return a * x**b

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the interval […] of the exponent by Student's t with m − 2 degrees of freedom."""
        reach = student_quantile(level, self.points - 2) * self.std_err
        return self.exponent - reach, self.exponent + reach

    def forecast(self, x: float, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the interval […] in which a new y at x falls, *if* law and independent residuals go on."""
        far = (math.log(x) - self.centre) ** 2 / self.spread
        reach = student_quantile(level, self.points - 2) * self.residual * (1 + 1 / self.points + far).sqrt()
        return self(x) * (-reach).exp(), self(x) * reach.exp()


def power_law(x: Tensor, y: Tensor) -> PowerLaw:
    """Return the least-squares line of log y in log x.

    Args:
        x: [m]. y: [m] or […, m], positive.
    Raises:
        ValueError: fewer than two different x, or what is not positive and finite.

    Used in: scaling_laws.

    >>> law = power_law(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([3.0, 6.0, 12.0, 24.0]))
    >>> round(law.exponent.item(), 6), round(law(10.0).item(), 6)
    (1.0, 30.0)
    """
    x, y = x.detach().double(), y.detach().double()
    if x.ndim != 1 or y.shape[-1:] != x.shape or len(x.unique()) < 2:
        raise ValueError(f"a line needs x [m] with at least two different values, and y […, m]; got {tuple(x.shape)} "
                         f"with {len(x.unique())} and {tuple(y.shape)}.")
    if not all(bool((z.isfinite() & (z > 0)).all()) for z in (x, y)):
        raise ValueError("x and y must be positive and finite: the fit is one of log y in log x.")
    u, v = x.log(), y.log()
    centre, m = u.mean(), len(x)
    spread = ((u - centre) ** 2).sum()
    slope = (v * (u - centre)).sum(-1) / spread
    intercept = v.mean(-1) - slope * centre
    misfit = ((v - intercept[..., None] - slope[..., None] * u) ** 2).sum(-1)
    residual = (misfit / (m - 2)).sqrt() if m > 2 else torch.full_like(slope, math.nan)
    return PowerLaw(slope, intercept.exp(), residual / spread.sqrt(), residual, m, centre, spread)


def student_quantile(level: float, freedom: int) -> float:
    """Return t with P(|T| ≤ t) = level for Student's T; nan without a degree of freedom.

    >>> round(student_quantile(0.95, 4), 3)
    2.776
    """
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom)) if freedom > 0 else math.nan


@dataclass(frozen=True)
class IsoFlop:
    """Vertices of parabolas of log L in log N at fixed compute; nan where one does not open upwards.

    Attributes:
        n_opt, loss: […] place and height of the vertex. curvature: […] second derivative of log L in log N.
        inside: […] whether the vertex lies between the sizes that were trained.
    """

    n_opt: Tensor
    loss: Tensor
    curvature: Tensor
    inside: Tensor


def isoflop(N: Tensor, loss: Tensor) -> IsoFlop:
    """Return the vertex of the least-squares parabola of log L in log N, row by row.

    Args:
        N: [m] sizes. loss: […, m] at one compute a row; nan where a size was not trained, three are needed.

    Source: hoffmann2022training (approach 2). Used in: scaling_laws.

    >>> N = torch.tensor([1.0, 2.0, 4.0, 8.0])
    >>> isoflop(N, torch.exp(0.1 * torch.log(N / 3) ** 2)).n_opt
    tensor(3.0000, dtype=torch.float64)
    """
    u, v = N.detach().double().log(), loss.detach().double().log()
    have = v.isfinite()
    count = have.sum(-1, keepdim=True)
    mean = torch.where(have, u, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)
    powers = torch.stack([torch.where(have, (u - mean) ** k, 0.0) for k in range(3)], -1)  # […, m, 3]
    gram = powers.mT @ powers + 1e-300 * torch.eye(3, dtype=u.dtype, device=u.device)
    right = powers.mT @ torch.where(have, v, 0.0)[..., None]
    c, b, a = torch.linalg.solve_ex(gram, right)[0][..., 0].unbind(-1)
    good = (count[..., 0] >= 3) & (a > 0)
    place = torch.where(good, -b / (2 * a), math.nan)
    lowest = torch.where(have, u, torch.inf).amin(-1), torch.where(have, u, -torch.inf).amax(-1)
    vertex = place + mean[..., 0]
    inside = good & (lowest[0] <= vertex) & (vertex <= lowest[1])
    return IsoFlop(vertex.exp(), torch.where(good, c - b**2 / (4 * a), math.nan).exp(),
                   torch.where(good, 2 * a, math.nan), inside)


def at_compute(N: float, tokens: Tensor, losses: Tensor, compute: Tensor, *, flops: float = 6.0) -> Tensor:
    """Return the loss […, c] of a model of N parameters after D = C/(6 N) tokens, from its curve; nan outside it.

    The curve is interpolated linearly in log D and log L.

    Args:
        tokens: [m] increasing. losses: […, m]. compute: C [c].

    >>> at_compute(10, torch.tensor([1.0, 4.0]), torch.tensor([4.0, 2.0]), torch.tensor([120.0, 600.0]))
    tensor([2.8284,    nan], dtype=torch.float64)
    """
    u, v = tokens.double().log(), losses.double().log()
    target = (compute.double() / flops / N).log()
    right = torch.searchsorted(u, target).clamp(1, len(u) - 1)
    share = (target - u[right - 1]) / (u[right] - u[right - 1])
    value = (v[..., right - 1] * (1 - share) + v[..., right] * share).exp()
    slack = 1e-9
    return torch.where((target >= u[0] - slack) & (target <= u[-1] + slack), value, math.nan)


def batch_law(batch: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return (S_min, E_min) of steps = S_min + E_min/B, fitted to log steps; B_crit = E_min/S_min.

    With E = B · S examples the same is (S/S_min − 1)(E/E_min − 1) = 1.

    Args:
        batch: B [m], at least two different. steps: S [m] or […, m] to one and the same loss.

    Source: mccandlish2018empirical (eq. 2.11). Used in: scaling_laws.

    >>> B = torch.tensor([1.0, 10.0, 100.0])
    >>> [round(part.item(), 6) for part in batch_law(B, 30 + 600 / B)]
    [30.0, 600.0]
    """
    B, S = batch.double(), steps.double()
    if len(B.unique()) < 2 or not bool((B > 0).all() & (S > 0).all()):
        raise ValueError("the law needs positive steps for at least two different batch sizes.")
    columns = torch.stack([torch.ones_like(B), 1 / B], -1)  # [m, 2]
    fitted = S
    for _ in range(50):  # residuals (S − fitted)/fitted: Gauss–Newton for log S, reweighted
        weight = 1 / fitted
        A = columns * weight[..., None]
        coefficients = torch.linalg.lstsq(A, ((S.log() - fitted.log()) + 1)[..., None]).solution[..., 0]
        fitted = (columns * coefficients[..., None, :]).sum(-1).clamp(min=1e-9)
    return coefficients[..., 0], coefficients[..., 1]
