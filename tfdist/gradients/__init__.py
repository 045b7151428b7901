"""The gradient path: what happens between a tape's gradients and the update."""

from tfdist.gradients.attach import attach as attach

__all__ = ["attach"]
