"""`SampleError`: what a plugin says of a value that it cannot use."""


class SampleError(ValueError):
    """A file or value that cannot be used, the reason in one line. The engine adds its name and, as set, skips or
    stops."""
