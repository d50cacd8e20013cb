"""What one row of the zoo says, and the sizes the rows share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

CORE_FORMS = ("recurrent", "parallel", "chunkwise")
H, WINDOW, FEATURES = 4, 16, 24  # heads, window and features of the rows; any others can be asked for


@dataclass(frozen=True)
class Row:
    """One architecture: how to make it, what it forgets, what its state costs, where it comes from."""

    name: str
    make: Callable[..., nn.Module]  # make(d_model, form=...) -> mixer
    gate: str  # what it chooses to forget: A_t in S_t = S_{t-1} A_t + v_t k_tᵀ
    state_floats: Callable[[int, int], int]  # (T, d_model) -> numbers kept per sequence after T tokens
    forms: tuple[str, ...]  # values of form=, the default first or named by the mixer; () for a mixer with one form
    paper: str
    year: int
    chapter: int
    oracle: str  # the code or mathematics its own test compares with; none of it shared with the mixer
    causal: bool = True  # False: each output sees the whole sequence, so there is no state to carry


def with_heads(mixer, **options):
    """`mixer` with the rows' number of heads."""
    return partial(mixer, n_heads=H, **options)
