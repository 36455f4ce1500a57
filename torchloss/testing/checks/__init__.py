"""The checks, by what they are about; importing them registers them, cheap ones first."""

from . import values, edges, precision, autograd, derivatives, determinism, memory, compiled  # isort: skip  # noqa: F401, I001
