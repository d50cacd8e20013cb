"""Write into the memory

*Add v kᵀ to the state. · 5 minutes · ●○○ · 2 points*

One token is written.
"""

import torch

from seqlab.course.exercise import Case


def write(S, k, v):
    """S + v kᵀ."""
    ### BEGIN SOLUTION
    vk = v[..., :, None] * k[..., None, :]
    return S + vk
    ### END SOLUTION


WHY = """
Why 90.1 is so.
"""

HINTS = ("Which axes has S?", "S + v kᵀ.", "v[..., :, None] * k[..., None, :]")


def reference(S, k, v):
    return S + torch.einsum("bhv, bhk -> bhvk", v, k)


def cases(rng):
    shapes = {"K ≠ V": (2, 3, 5, 4), "K = V": (1, 2, 4, 4)}
    return [
        Case(
            name,
            {
                "S": torch.randn(B, H, V, K, generator=rng),
                "k": torch.randn(B, H, K, generator=rng),
                "v": torch.randn(B, H, V, generator=rng),
            },
        )
        for name, (B, H, V, K) in shapes.items()
    ]


OUTPUTS = ("S",)

TIME_AXIS = None

MISTAKES = """
v[..., :, None] * k[..., None, :] → k[..., :, None] * v[..., None, :]
    The state is transposed: k vᵀ instead of v kᵀ.
S + vk → vk
    The write replaces the state.
S + vk → S - vk
    The write is subtracted.
S + vk → S + 2 * vk
    The write counts twice.
"""
