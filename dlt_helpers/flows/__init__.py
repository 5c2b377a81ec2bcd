"""Continuous-time companions of full-batch training: the gradient flow, the central flow, what they predict.

One clock for all of them: a unit of time is one step of the discrete method.
The state is (w, ν) and every flow here is a case of

    dw/dt = −η P⁻¹ [ g + ½ ∇⟨H, Σ⟩ ],   dν/dt = c [ g² + diag(HΣH) − ν ],   P = diag(√ν + eps),
    0 ⪯ Σ ⊥ (2/η) P − H ⪰ 0,

where Σ is the covariance of the oscillation that the flow averages over, g = ∇L(w) and H = ∇²L(w) (in ∇⟨H, Σ⟩
the matrix Σ is held fixed). RMSProp has c = (1 − β₂)/β₂; gradient descent is c = 0, ν = 0, eps = 1, so P = 1.
Without the oscillation (Σ = 0) these are the gradient flow and RMSProp's stable flow: the controls.
"""

from .averages import oscillation, oscillation_covariance, oscillation_trace, time_average
from .central import central_flow, contractions, rmsprop_flow
from .result import Cost, Flow
from .stable import gradient_flow

__all__ = [
    "Cost",
    "Flow",
    "central_flow",
    "contractions",
    "gradient_flow",
    "oscillation",
    "oscillation_covariance",
    "oscillation_trace",
    "rmsprop_flow",
    "time_average",
]
