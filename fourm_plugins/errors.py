"""`SampleError`: what a plugin says of a value that it cannot use."""


class SampleError(ValueError):
    """A file or value that cannot be used, with the reason in one line. The engine adds the file's name, counts it, and
    skips the sample or stops, as configured."""
