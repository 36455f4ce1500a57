"""The checks, by what they are about; importing them registers them, cheap ones first."""

from . import values, memory, autograd, derivatives, compiled  # isort: skip  # noqa: F401, I001
