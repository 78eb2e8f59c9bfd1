"""A clock that a test sets."""


class Clock:
    """Seconds; moves only when told to."""

    def __init__(self, now=1_700_000_000.0):
        self.now = now

    def __call__(self):
        return self.now

    def forward(self, seconds):
        self.now += seconds
