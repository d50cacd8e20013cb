"""What a family of checkpoints says about itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from torch import Tensor

from seqlab.hub.config import Config
from seqlab.hub.weights import Into, fill
from seqlab.model import LanguageModel


@dataclass(frozen=True)
class Family:
    """All that is needed to read one `model_type`; see `seqlab.hub` for how to add one."""

    name: str  # the config's model_type
    fields: dict[str, Any]  # fields that change the logits, with the value of a config that does not name them
    build: Callable[[Config], LanguageModel]  # our model of the sizes the config asks for
    names: Callable[[Config], dict[str, str | Into | None]]  # from their weights to ours
    no_effect: frozenset[str] = frozenset()  # further fields without effect on the logits
    weights: Callable[[Any], dict[str, Tensor]] = methodcaller("state_dict")  # of a `transformers` model

    def prepare(self, config: dict[str, Any]) -> tuple[LanguageModel, dict[str, str | Into | None]]:
        """Our model, still random, and the table of names. ValueError names a field that would be passed over."""
        c = Config(self.name, config, self.fields, self.no_effect)
        c.check_known()
        model, table = self.build(c), self.names(c)
        c.check_read()
        return model, table

    def load(self, config: dict[str, Any], weights: Iterable[tuple[str, Tensor]]) -> LanguageModel:
        """Our model with their weights. ValueError names a field or a weight that would be passed over."""
        model, table = self.prepare(config)
        fill(model, weights, table)
        return model
