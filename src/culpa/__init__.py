"""culpa finds the root cause of slow I/O and slow responses on Linux."""

__version__ = "0.1.0"
