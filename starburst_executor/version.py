"""The version of this library; the only place it stands."""

__all__ = ["__version__"]

__version__ = "0.1.0"
