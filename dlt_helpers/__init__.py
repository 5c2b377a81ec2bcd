"""Helpers of *Deep Learning Theory: executable lecture notes*; call them by room: ``from dlt_helpers import hessian``."""

__version__ = "0.1.0"
