"""What one row of the zoo says, and the sizes that the rows share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

CORE_FORMS = ("recurrent", "parallel", "chunkwise")

# Heads, window and features of the rows; a mixer takes any others.
H, WINDOW, FEATURES = 4, 16, 24


@dataclass(frozen=True)
class Row:
    """One architecture: how to make it, what it forgets, what its state costs, its source.

    `paper` is "arXiv:…" or "doi:…"; `zoo/papers.py` holds its title and year.
    """

    name: str
    # make(d_model, form=...) -> mixer
    make: Callable[..., nn.Module]
    # What it chooses to forget: A_t in S_t = S_{t-1} A_t + v_t k_tᵀ.
    gate: str
    # (T, d_model) -> numbers kept per sequence after T tokens
    state_floats: Callable[[int, int], int]
    # Values of form=, the default first or named by the mixer; () for a mixer with one form.
    forms: tuple[str, ...]
    paper: str
    year: int
    chapter: int
    # The code or mathematics that its own test compares with; it shares nothing with the mixer.
    oracle: str
    # False: each output sees the whole sequence, so there is no state to carry.
    causal: bool = True


def with_heads(mixer: Callable[..., nn.Module], **options: Any) -> partial:
    """`mixer` with the rows' number of heads."""
    return partial(mixer, n_heads=H, **options)


@dataclass(frozen=True)
class ChannelMixer:
    """One channel mixer: how to make it, where it sends a token, how many weights a token uses."""

    name: str
    # make(d_model) -> channel mixer
    make: Callable[..., nn.Module]
    # Which of its parts a token goes to.
    route: str
    # d_model -> weights that one token uses
    touched: Callable[[int], int]
    paper: str
    year: int
    chapter: int
    # What its own test compares with.
    oracle: str
    # False: which tokens an expert serves depends on later ones.
    causal: bool = True


# Two of a recipe's sizes count parameters: all of them, and those that one token uses.
COUNTED = ("total", "active")


@dataclass(frozen=True)
class Recipe:
    """A whole model: which mixers in which order, and the sizes it was published with.

    `paper` is the model's own source: "arXiv:…", "doi:…", "card:owner/name" (a model card on
    huggingface.co) where there is no paper, or "" for a sketch, which is no model. A model without
    a paper names in `method` the paper of what it is built from.
    """

    name: str
    # One line: which mixers and channel mixers, in which order.
    layout: str
    # build(**sizes) -> LanguageModel; its defaults give a tiny one over 256 bytes.
    build: Callable[..., nn.Module]
    # model -> sizes by the names of `build`, and those COUNTED, as its source says
    published: dict[str, dict[str, Any]]
    paper: str
    year: int
    chapter: int
    # Where the sizes are published.
    source: str
    # What its test compares with.
    oracle: str
    # The paper of what the model is built from, if the model has none of its own.
    method: str = ""

    def tiny(self) -> nn.Module:
        """The same layout, small enough to train on a laptop."""
        return self.build()

    def full(self, model: str) -> nn.Module:
        """`model` in its published sizes on the meta device: all shapes, no numbers."""
        sizes = {k: v for k, v in self.published[model].items() if k not in COUNTED}
        with torch.device("meta"):
            return self.build(**sizes)
