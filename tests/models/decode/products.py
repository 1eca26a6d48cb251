"""A product that rounds nothing, to look at a decoding step without its 8-bit weights."""

from torch import Tensor
from torch.nn import functional as F


def float_product(weight: Tensor, bias: Tensor | None):
    """`x -> W x + b`, exactly; a `Product` of `int8.Packer`."""
    return lambda x: F.linear(x, weight, bias)
