"""A simulated executor with two back ends: in the process, and over HTTP on loopback."""

from w4s_jax.executor.simulator.backend import SimulatedBackend
from w4s_jax.executor.simulator.model import ErrorKind, Feature, ResponseModel
from w4s_jax.executor.simulator.problems import problem_from_item

__all__ = ["ErrorKind", "Feature", "ResponseModel", "SimulatedBackend", "problem_from_item"]
