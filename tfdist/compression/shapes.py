"""How a weight of any rank is seen as a matrix."""

from __future__ import annotations

import math

from tfdist.compression.compressor import Shape


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """Returns the rows and columns of the matrix that a tensor is reshaped to.

    The axes are cut in two where rows + columns is smallest, since that is what a
    low-rank factorisation sends. In Keras's layouts this finds the natural matrix,
    without moving an element:

    ====================  =====================  ====================
    layer                 shape                  matrix
    ====================  =====================  ====================
    Dense, Embedding      in, out                in, out
    Conv                  h, w, in, out          h*w*in, out
    DepthwiseConv         h, w, in, 1            h*w, in
    attention: q, k, v    d, heads, key          d, heads*key
    attention: output     heads, key, d          heads*key, d
    ====================  =====================  ====================

    (PyTorch puts the output first; its `shape[0], -1` would make a 3x3 convolution
    3 x (3*in*out) here and save nothing.)

    Args:
        shape: Two axes or more.

    Returns:
        (rows, columns).

    Example:
        >>> matrix_shape((3, 3, 64, 128))
        (576, 128)
    """
    cuts = [
        (math.prod(shape[:axis]), math.prod(shape[axis:]))
        for axis in range(1, len(shape))
    ]
    return min(reversed(cuts), key=sum)
