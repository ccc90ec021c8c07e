"""Stops asked for by signals."""


class Stopped(KeyboardInterrupt):
    """A signal asked to stop. Attributes: signal: its number."""

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.signal = number
