"""Activations, by their names in configs."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from seqlab.hub.config import Config


def relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": relu2,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(c: Config, field: str = "hidden_act") -> Callable[[Tensor], Tensor]:
    """The function that the config's `field` names."""
    name = getattr(c, field)
    if name not in ACTIVATIONS:
        c.refuse(field, f"is {name!r}: only {', '.join(ACTIVATIONS)} are supported")
    return ACTIVATIONS[name]
