"""What one row of the zoo says, and the sizes the rows share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

CORE_FORMS = ("recurrent", "parallel", "chunkwise")
H, WINDOW, FEATURES = (
    4,
    16,
    24,
)  # heads, window and features of the rows; any others can be asked for


@dataclass(frozen=True)
class Row:
    """One architecture: how to make it, what it forgets, what its state costs, where it comes
    from.
    """

    name: str
    make: Callable[..., nn.Module]  # make(d_model, form=...) -> mixer
    gate: str  # what it chooses to forget: A_t in S_t = S_{t-1} A_t + v_t k_tᵀ
    state_floats: Callable[
        [int, int], int
    ]  # (T, d_model) -> numbers kept per sequence after T tokens
    forms: tuple[
        str, ...
    ]  # values of form=, the default first or named by the mixer; () for a mixer with one form
    paper: str
    year: int
    chapter: int
    oracle: (
        str  # the code or mathematics its own test compares with; none of it shared with the mixer
    )
    causal: bool = True  # False: each output sees the whole sequence, so there is no state to carry


def with_heads(mixer, **options):
    """`mixer` with the rows' number of heads."""
    return partial(mixer, n_heads=H, **options)


@dataclass(frozen=True)
class ChannelMixer:
    """One channel mixer: how to make it, where it sends a token, how many weights meet it, where it
    comes from.
    """

    name: str
    make: Callable[[int], nn.Module]  # make(d_model) -> channel mixer
    route: str  # which of its parts a token goes to
    touched: Callable[[int], int]  # d_model -> weights that one token meets
    paper: str
    year: int
    chapter: int
    oracle: str  # what its own test compares with
    causal: bool = True  # False: which tokens an expert serves depends on later ones


COUNTED = (
    "total",
    "active",
)  # of a recipe's sizes: parameters in all, and those that one token meets


@dataclass(frozen=True)
class Recipe:
    """A whole model: which mixers in which order, and the sizes it was published with."""

    name: str
    layout: str  # one line: which mixers and channel mixers, in which order
    build: Callable[
        ..., nn.Module
    ]  # build(**sizes) -> LanguageModel; its defaults are a tiny one over 256 bytes
    published: dict[
        str, dict[str, Any]
    ]  # model -> sizes by the names of `build`, and those COUNTED; as its source says
    paper: str
    year: int
    chapter: int
    source: str  # where the sizes stand
    oracle: str  # what its test compares with

    def tiny(self) -> nn.Module:
        """The same layout in small: it trains on a laptop."""
        return self.build()

    def full(self, model: str) -> nn.Module:
        """`model` in its published sizes on the meta device: all shapes, no numbers."""
        with torch.device("meta"):
            return self.build(
                **{k: v for k, v in self.published[model].items() if k not in COUNTED}
            )
