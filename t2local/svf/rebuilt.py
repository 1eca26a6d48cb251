"""The gradient of `z` through a rebuilt matrix, without the gradient of the matrix.

With `W' = U diag(σ ⊙ z) Vᵀ` ready, `g` the gradient at the output and `gₓ = W'ᵀ g` (needed anyway):

    in side    dz_i = Σ_t (Vᵀx)_i (Vᵀgₓ)_i / z_i
    out side   dz_i = Σ_t (Uᵀy')_i (Uᵀg)_i / z_i,   y' = W' x

so a training step whose rows share one `z` runs at the base model's forward speed. `1 / z` asks
that no z is near 0: true of experts, whose z stays near 1. Pure function of tensors.
"""

import torch
from torch.nn import functional as F

SMALLEST = 1e-3  # |z| below it would amplify rounding; z is held there in the division


class RebuiltLinear(torch.autograd.Function):
    """`y = W'x + b` with gradients for `x` and `z` `[r]`, one for all rows. Float layers only."""

    @staticmethod
    def forward(ctx, x, z, matrix, bias, rows, side):  # x [..., n], matrix [m, n], rows [r, r]
        ctx.save_for_backward(x, z, matrix, rows)
        ctx.side = side
        return F.linear(x, matrix, bias)

    @staticmethod
    def backward(ctx, gradient):  # [..., m]
        x, z, matrix, rows = ctx.saved_tensors
        gradient_x = gradient @ matrix  # [..., n]
        if not ctx.needs_input_grad[1]:
            return gradient_x, None, None, None, None, None
        if ctx.side == "in":
            before, after = x, gradient_x
        else:
            before, after = F.linear(x, matrix), gradient
        products = F.linear(before, rows) * F.linear(after, rows)  # [..., r]
        safe = torch.where(z.abs() < SMALLEST, SMALLEST, z)
        gradient_z = products.flatten(end_dim=-2).sum(dim=0) / safe
        return gradient_x, gradient_z.to(z.dtype), None, None, None, None
