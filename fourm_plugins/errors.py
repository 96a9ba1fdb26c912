"""`SampleError`: what a plugin says of a value that it cannot use."""


class SampleError(ValueError):
    """A file or value that cannot be used, with the reason in one line. The engine adds the name and, as configured,
    skips it or stops."""
