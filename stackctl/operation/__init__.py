"""A transaction, then a convergence: the one way in which commands change the world."""

from stackctl.operation.outcome import Done, Failure, PlannedStep
from stackctl.operation.recover import Recovered, adopt, recover
from stackctl.operation.run import Operation, begin, run

__all__ = [
    "Done",
    "Failure",
    "Operation",
    "PlannedStep",
    "Recovered",
    "adopt",
    "begin",
    "recover",
    "run",
]
