"""What a family of checkpoints says about itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from torch import Tensor

from seqlab.hub.config import Config
from seqlab.hub.weights import Into, fill
from seqlab.model import LanguageModel

SIZES = ("num_hidden_layers", "hidden_size", "vocab_size")


@dataclass(frozen=True)
class Family:
    """All that is needed to read one `model_type`; see `seqlab.hub` for how to add one."""

    name: str  # the config's model_type
    fields: dict[
        str, Any
    ]  # fields that change the logits, with the value of a config that does not name them
    build: Callable[[Config], LanguageModel]  # our model of the sizes the config asks for
    names: Callable[[Config], dict[str, str | Into | None]]  # from their weights to ours
    no_effect: frozenset[str] = frozenset()  # further fields without effect on the logits
    weights: Callable[[Any], dict[str, Tensor]] = methodcaller(
        "state_dict"
    )  # of a `transformers` model

    def prepare(self, config: dict[str, Any]) -> tuple[LanguageModel, dict[str, str | Into | None]]:
        """Our model, still random, and the table of names. ValueError names a field that would be
        passed over.
        """
        c = Config(self.name, config, self.fields, self.no_effect)
        c.check_known()
        try:
            model, table = self.build(c), self.names(c)
        except ValueError as error:  # a mixer's own: it knows nothing of families
            raise (
                error
                if str(error).startswith(f"{self.name}: ")
                else ValueError(f"{self.name}: {error}")
            ) from None
        c.check_read()
        return model, table

    def load(self, config: dict[str, Any], weights: Iterable[tuple[str, Tensor]]) -> LanguageModel:
        """Our model with their weights. ValueError names a field or a weight that would be passed
        over.
        """
        model, table = self.prepare(config)
        try:
            fill(model, weights, table)
        except ValueError as error:
            sizes = ", ".join(f"{name}={config[name]}" for name in SIZES if name in config)
            raise ValueError(
                f"{self.name}: {error}. Is this the config of these weights? {sizes}"
            ) from None
        return model
