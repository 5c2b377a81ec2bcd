"""Flows of the time-averaged path of an oscillating method: short steps, implicit in the constraint on H."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dlt_helpers import functional
from dlt_helpers.complementarity import solve_complementarity
from dlt_helpers.functional import Loss, value_and_grad

from .result import Cost, Flow, Recorder, Rule
from .stable import stable_flow

NEAR = 0.97  # directions above this share of the threshold enter the complementarity problem
FAR = 0.9  # with an untracked eigenvalue above this share the eigenvectors are renewed every unit of time,
PATIENCE = 4.0  # else after this many units, or when their residual says so


def central_flow(loss: Loss, w0: Tensor, *, lr: float, steps: int, **options) -> Flow:
    """Return the flow dw/dt = −η [∇L + ½ ∇⟨H, Σ⟩], 0 ⪯ Σ ⊥ (2/η) − H ⪰ 0: the mean path of gradient descent.

    At the edge Euler steps of length dt, with the Σ that keeps H ⪯ 2/η at the *end* of the step.
    Along a critical direction such a step multiplies by 1 − dt η (2/η) = 1 − 2 dt: dt = ½ removes an error
    there at once, and dt = 1, gradient descent itself, never does.
    While nothing is critical the steps are of second order (explicit midpoint), so that the flow is the
    gradient flow there and not half-way to gradient descent.

    Args:
        loss: w [p] -> scalar. w0: [p]. lr: η. steps: how long to run, in steps of gradient descent.
        **options: dt, hold, k_max, tol, method, keep_covariance, generator, as for `rmsprop_flow`.
    Returns:
        Flow.
    Raises:
        ValueError: 1/dt not whole, or hold or k_max below one.

    Source: [cohen2025understanding]; derived in the chapter. Used in: edge_of_stability.

    >>> def loss(w):  # at x = 0 the sharpness is 20 + 2y; y grows by η a step and would make it pass 2/η = 20
    ...     return -w[1] + (10 + w[1]) * w[0] ** 2
    >>> flow = central_flow(loss, torch.tensor([0.0, -0.5], dtype=torch.float64), lr=0.1, steps=8)
    >>> flow.weights[[0, 4, 8], 1].round(decimals=4) + 0.0  # at the edge from t = 5 on
    tensor([-0.5000, -0.1000,  0.0000], dtype=torch.float64)
    >>> flow.sigma_trace[[4, 8]].round(decimals=4)  # 2 · 1/2, the mean of x²
    tensor([0., 1.], dtype=torch.float64)
    """
    return _central(loss, w0, torch.zeros_like(w0), Rule(lr), steps=steps, **options)


def rmsprop_flow(loss: Loss, w0: Tensor, nu0: Tensor, *, lr: float, beta2: float, eps: float = 1e-8,
                 steps: int, oscillation: bool = True, stiffness: float = 2.0, **options) -> Flow:
    """Return the flow P dw/dt = −η [∇L + ½ ∇⟨H, Σ⟩], dν/dt = ((1−β₂)/β₂)[g² + diag(HΣH) − ν] of RMSProp.

    P = diag(√ν + eps), and 0 ⪯ Σ ⊥ (2/η) P − H ⪰ 0. The rate has β₂ below because ν_t uses the *current*
    gradient: ν_t − ν_{t−1} = ((1−β₂)/β₂)(g_t² − ν_t). The edge moves with H and with P, and the oscillation
    acts on both: it lowers H by its pull, and raises P by the squared gradients that it causes.

    Args:
        loss: w [p] -> scalar. w0, nu0: [p] state at the start; nu0 > 0 except where the gradient stays 0.
        lr: η. beta2: in (0, 1). eps: outside the root. steps: how long to run, in steps of RMSProp.
        oscillation: False for the stable flow, Σ = 0: what RMSProp would do at vanishing η, the control.
        stiffness: of the stable flow, as for `gradient_flow`.
        dt: length of an Euler step, 1/2 by default; 1/dt must be whole.
        hold: Euler steps from one look at the curvature to the next, 2 by default; H is linear in between.
        k_max: largest number of critical directions, 6 by default.
        tol: relative residual allowed to the eigenvectors, 3e-3 by default.
        method: of the third derivatives, "difference" (of gradients, the default) or "autograd".
        keep_covariance: times at which a factor F of Σ = F Fᵀ is kept.
        generator: draws the first guess of the eigenvectors.
    Returns:
        Flow with nu [m, p]; eigs are those of P⁻¹H and the threshold is 2/η.
    Raises:
        ValueError: beta2 out of range, 1/dt not whole, or hold or k_max below one.

    Source: [cohen2025understanding]; derived in the chapter. Used in: edge_of_stability.

    >>> w, nu = torch.tensor([0.5]), torch.tensor([0.25])
    >>> flow = rmsprop_flow(lambda w: w[0] ** 2 / 2, w, nu, lr=0.1, beta2=0.9, steps=1, oscillation=False)
    >>> 1 - flow.weights[1] / w  # about η/√ν = 0.2 in a unit of time
    tensor([0.1818])
    """
    if not 0 < beta2 < 1:
        raise ValueError(f"beta2 must lie in (0, 1); got {beta2}.")
    rule = Rule(lr, (1 - beta2) / beta2, eps)
    if not oscillation:
        return stable_flow(loss, w0, nu0, rule, steps=steps, stiffness=stiffness)
    return _central(loss, w0, nu0, rule, steps=steps, **options)


def _central(loss, w0, nu0, rule, *, steps, dt=0.5, hold=2, keep_covariance: Iterable[int] = (), **options):
    per_unit = round(1 / dt)
    if per_unit < 1 or abs(per_unit * dt - 1) > 1e-9 or hold < 1:
        raise ValueError(f"1/dt must be a whole number and hold at least 1; got {dt=}, {hold=}.")
    edge = Edge(loss, rule, dt, **options)
    record, keep = Recorder(w0, rule, steps, edge.k_max + 1), set(keep_covariance)
    w, nu = w0.detach(), nu0.detach()
    for n in range(steps * per_unit + 1):
        value, g = value_and_grad(loss, w)
        record.cost += Cost(1)
        if not g.norm().isfinite():
            break
        if n % hold == 0:
            edge.look(w, nu, g, n * dt)
        X = edge.balance(nu, g)
        if n % per_unit == 0:
            t = n // per_unit
            record.state(t, w, nu, value, g, edge.values)
            record.oscillation(t, edge.U, edge.HU, X, t in keep)
        if n < steps * per_unit:
            dw, dnu = rule.rates(nu, g, *edge.pull(X))
            if not len(X):  # nothing is critical
                g = value_and_grad(loss, w + dt / 2 * dw)[1]
                dw, dnu = rule.rates(nu + dt / 2 * dnu, g)
                record.cost += Cost(1)
            w, nu = w + dt * dw, nu + dt * dnu
            edge.move(dt * dw)
    record.cost += edge.cost
    record.quality = {"complete": edge.complete, "residual": edge.residual}
    return record.flow()


class Edge:
    """The critical directions U [p, k] with HU [p, k], M = UᵀHU and D_ij = ∇(u_iᵀ H u_j) [p, k, k]."""

    def __init__(self, loss, rule, dt, *, k_max=6, tol=3e-3, method="difference", generator=None):
        if k_max < 1:
            raise ValueError(f"k_max (critical directions at most) must be at least 1; got {k_max}.")
        self.loss, self.rule, self.dt, self.k_max = loss, rule, dt, k_max
        self.tol, self.method, self.generator = tol, method, generator
        self.subspace, self.values, self.X, self.due = None, None, None, 0.0
        self.complete, self.residual, self.cost = True, 0.0, Cost()

    def look(self, w, nu, g, t):
        """Measure the curvature at w, with new eigenvectors if they are due."""
        if t >= self.due:
            self._renew(w, nu, t)
        self.HU, self.D, cost = contractions(self.loss, w, self.U, g, method=self.method)
        self.M, self.cost = _symmetric(self.U.T @ self.HU), self.cost + cost
        if len(self.M):
            P = self.rule.P(nu)[:, None]
            inside = torch.linalg.solve(self.U.T @ (P * self.U), self.M)  # [k, k]
            astray = ((self.HU - P * self.U @ inside) / P.sqrt()).norm(dim=0)  # [k]
            if (astray > self.tol * self.rule.threshold).any():
                self.due = t

    def _renew(self, w, nu, t):
        k = 2 if self.subspace is None else max(1, self.U.shape[1]) + 1  # one more than are critical
        eigs = self.rule.top_eigs(self.loss, w, nu, k, start=self.subspace, tol=self.tol,
                                  generator=self.generator)
        share = eigs.values / self.rule.threshold
        k = int((share > NEAR).sum())
        crowded = k == len(share) or bool(share[k] > FAR)
        self.complete &= k <= self.k_max
        self.subspace, self.values, self.U = eigs.subspace, eigs.values, eigs.vectors[:, : min(k, self.k_max)]
        self.due = t + (1.0 if crowded else PATIENCE)
        self.cost += Cost(eigs.n_gradients, eigs.n_hvps, 1)

    def balance(self, nu, g):
        """X [k, k] of Σ = U X Uᵀ, such that (2/η) P − H ⪰ 0 on U at the end of the Euler step."""
        k = len(self.M)
        if k == 0:
            return self.M
        start = self.X if self.X is not None and len(self.X) == k else None
        solution = solve_complementarity(*self._problem(nu, g, k), start=start, tol=1e-6)
        self.X, self.residual = solution.X, max(self.residual, solution.residual)
        return self.X

    def _problem(self, nu, g, k):
        """A [k, k], the room left at the end of the step if Σ = 0, and B [k, k, k, k], what Σ adds to it."""
        lr, dt, threshold, U = self.rule.lr, self.dt, self.rule.threshold, self.U
        P, D = self.rule.P(nu)[:, None], self.D.flatten(1)  # [p, 1], [p, k²]
        A = threshold * U.T @ (P * U) - self.M + dt * lr * (D.T @ (g[:, None] / P)).view(k, k)
        B = dt * lr / 2 * D.T @ (D / P)  # [k², k²]
        if self.rule.c:  # P moves too
            rise = dt * threshold * self.rule.c * self.rule.slope(nu)[:, None]  # [p, 1]
            A = A + U.T @ (rise * (g * g - nu)[:, None] * U)
            B = B + _pairs(U).T @ (rise * _pairs(self.HU))
        return _symmetric(A), B.view(k, k, k, k)

    def pull(self, X):
        """½∇⟨H, Σ⟩ [p] and diag(HΣH) [p]."""
        return 0.5 * self.D.flatten(1) @ X.flatten(), (self.HU @ X * self.HU).sum(1)

    def move(self, dw):
        """Continue H linearly until the next look: M changes by ⟨D, dw⟩."""
        self.M = self.M + (dw @ self.D.flatten(1)).view_as(self.M)


def contractions(loss: Loss, w: Tensor, U: Tensor, g: Tensor, *,
                 method: str = "difference") -> tuple[Tensor, Tensor, Cost]:
    """Return HU [p, k], D [p, k, k] with D_ij = ∇(u_iᵀ H u_j) (U held fixed), and what that cost.

    The two gradients g(w ± h u) give Hu (half their difference) and ∇(uᵀHu) (their sum less 2g) at once:
    k directions need 2k gradients, and k(k−1) more for the mixed terms, by polarisation.

    Args:
        w: [p]. U: [p, k], of any lengths. g: [p] = ∇L(w). method: "difference" or "autograd".

    Used in: edge_of_stability.

    >>> w, U = torch.tensor([1.0, 2.0]).double(), torch.eye(2).double()[:, :1]
    >>> HU, D, cost = contractions(lambda w: w[0] ** 2 * w[1], w, U, torch.tensor([4.0, 1.0]).double())
    >>> HU[:, 0].round(decimals=4), D[:, 0, 0].round(decimals=4) + 0.0, cost.n_gradients
    (tensor([4., 2.], dtype=torch.float64), tensor([0., 2.], dtype=torch.float64), 2)
    """
    k = U.shape[1]
    HU, D = torch.empty_like(U), U.new_empty(len(w), k, k)
    if method == "autograd":
        HU = functional.derivatives(loss, w).hvp(U) if k else HU
        for i, j in _lower(k, 0):
            D[:, i, j] = D[:, j, i] = functional.third_derivative(loss, w, U[:, i], U[:, j], method=method)
        return HU, D, Cost(1 if k else 0, k, 0, k * (k + 1) // 2)
    length, h = U.norm(dim=0), functional.DIFFERENCE_STEP[w.dtype]
    E = U / length  # [p, k]
    for i in range(k):
        plus, minus = (value_and_grad(loss, w + s * h * E[:, i])[1] for s in (1, -1))
        HU[:, i], D[:, i, i] = (plus - minus) / (2 * h), (plus - 2 * g + minus) / h**2
    for i, j in _lower(k, -1):
        both = functional.third_derivative(loss, w, E[:, i] + E[:, j], grad=g)
        D[:, i, j] = D[:, j, i] = (both - D[:, i, i] - D[:, j, j]) / 2
    return HU * length, D * torch.outer(length, length), Cost(k + k * k)


def _lower(k, offset):
    return [(i, j) for i in range(k) for j in range(i + 1 + offset)]


def _symmetric(M):
    return (M + M.T) / 2


def _pairs(U):
    return (U[:, :, None] * U[:, None, :]).flatten(1)  # [p, k²]
