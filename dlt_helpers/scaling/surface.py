"""Loss surfaces L(N, D) over parameters and tokens, and what they say about spending compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FORMS = {"additive": "gamma = 1", "kaplan": "beta = 1"}  # which exponent is fixed


@dataclass(frozen=True)
class Surface:
    """L(N, D) = E + (A/N^α + B/D^β)^γ, or a batch of such surfaces with one shape […].

    additive (Hoffmann et al.): γ = 1, two errors that add up. kaplan: β = 1, the same as
    E + [(N_c/N)^(α_N/α_D) + D_c/D]^α_D with γ = α_D, α γ = α_N, A = N_c^α and B = D_c.

    Attributes:
        E: loss that no budget removes, nats. A, B: […]. alpha, beta, gamma: […].

    Source: hoffmann2022training (eq. 2), kaplan2020scaling (eq. 1.5). Used in: scaling_laws.

    >>> published = surface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    >>> round(published(70e9, 1.4e12).item(), 3), round(published.exponent.item(), 3)
    (1.937, 0.452)
    """

    E: Tensor
    A: Tensor
    B: Tensor
    alpha: Tensor
    beta: Tensor
    gamma: Tensor

    def __call__(self, N: Tensor | float, D: Tensor | float) -> Tensor:
        """Return L(N, D), […, m] for a batch of surfaces and N, D [m]; numbers give […]."""
        N, D = (torch.as_tensor(z, dtype=self.E.dtype, device=self.E.device) for z in (N, D))
        E, A, B, alpha, beta, gamma = (p[..., None] if N.ndim or D.ndim else p for p in self)
        return E + (A * N**-alpha + B * D**-beta) ** gamma

    def __iter__(self):
        return iter((self.E, self.A, self.B, self.alpha, self.beta, self.gamma))

    @property
    def exponent(self) -> Tensor:
        """a = β/(α + β) […]: N_opt grows as C^a."""
        return self.beta / (self.alpha + self.beta)

    @property
    def loss_exponent(self) -> Tensor:
        """γ α β/(α + β) […]: along the optimum L − E falls as C to minus this power."""
        return self.gamma * self.alpha * self.exponent

    def optimal(self, compute: Tensor | float, *, flops: float = 6.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N, D, L) that minimise L under compute = flops · N · D.

        N = G (C/6)^a, D = (C/6)^(1 − a)/G with G = (α A/(β B))^(1/(α + β)); the outer exponent γ does not matter.

        Args:
            compute: C, a number or [m]. flops: operations a parameter and token, 6 for forward and backward.
        """
        compute = torch.as_tensor(compute, dtype=self.E.dtype, device=self.E.device)
        _, A, B, alpha, beta, _ = (p[..., None] if compute.ndim else p for p in self)
        G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
        N = G * (compute / flops) ** (beta / (alpha + beta))
        return N, compute / flops / N, self(N, compute / flops / N)


def surface(*, E: float, A: float, B: float, alpha: float, beta: float, gamma: float = 1.0,
            dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Surface:
    """Return the surface with the given numbers, in float64.

    >>> float(surface(E=1, A=1, B=1, alpha=1, beta=1)(2.0, 2.0))
    2.0
    """
    return Surface(*(torch.full((), p, dtype=dtype, device=device) for p in (E, A, B, alpha, beta, gamma)))


def huber(residual: Tensor, delta: float) -> Tensor:
    """Return ½ r² where |r| ≤ δ and δ (|r| − ½ δ) beyond, by element.

    >>> huber(torch.tensor([0.5, 3.0]), 1.0)
    tensor([0.1250, 2.5000])
    """
    size = residual.abs()
    return torch.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def objective(surface: Surface, N: Tensor, D: Tensor, loss: Tensor, *, delta: float = 1e-3,
              counts: Tensor | float = 1.0) -> Tensor:
    """Return Σ_i c_i Huber_δ(log L_i − log L(N_i, D_i)) […], the sum and not the mean.

    Args:
        N, D, loss: [m]. counts: c, [m] or […, m], how often each point counts.

    Source: hoffmann2022training (eq. 3). Used in: scaling_laws.

    >>> one = surface(E=1, A=0, B=0, alpha=1, beta=1)
    >>> objective(one, torch.ones(3), torch.ones(3), torch.full((3,), torch.e, dtype=torch.float64), delta=0.5)
    tensor(1.1250, dtype=torch.float64)
    """
    return (huber(torch.log(loss) - torch.log(surface(N, D)), delta) * counts).sum(-1)
