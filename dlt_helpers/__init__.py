"""Helpers of *Deep Learning Theory: executable lecture notes*, to be called by room: ``hessian.sharpness(…)``."""

__version__ = "0.1.0"
