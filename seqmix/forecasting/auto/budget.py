"""The time budget of model selection."""

import time


class Budget:
    """Seconds of wall time, counted from when it is made.

    Args:
        seconds: the budget.
    """

    def __init__(self, seconds: float):
        self.seconds, self.started = seconds, time.perf_counter()
        #: seconds that are promised to what comes later
        self.reserved = 0.0

    @property
    def left(self) -> float:
        """Seconds that are neither spent nor reserved."""
        return self.seconds - (time.perf_counter() - self.started) - self.reserved
