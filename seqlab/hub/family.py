"""What is to be known of a family of checkpoints."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from torch import Tensor

from seqlab.hub.config import Config
from seqlab.hub.weights import Names, fill
from seqlab.model import LanguageModel

SIZES = ("num_hidden_layers", "hidden_size", "vocab_size")


@dataclass(frozen=True)
class Family:
    """All that is needed to read one `model_type`; `seqlab.hub` says how to add one."""

    # The config's model_type.
    name: str
    # The fields that change the logits, with their value in a config that does not name them.
    fields: dict[str, Any]
    # Our model of the sizes that the config asks for.
    build: Callable[[Config], LanguageModel]
    # From their weights to ours.
    names: Callable[[Config], Names]
    # Further fields without effect on the logits.
    no_effect: frozenset[str] = frozenset()
    # The weights of a `transformers` model.
    weights: Callable[[Any], dict[str, Tensor]] = methodcaller("state_dict")

    def prepare(self, config: dict[str, Any]) -> tuple[LanguageModel, Names]:
        """Our model, still random, and the table of names.

        ValueError names a field that would otherwise be ignored.
        """
        c = Config(self.name, config, self.fields, self.no_effect)
        c.check_known()
        try:
            model = self.build(c)
            table = self.names(c)
        except ValueError as error:
            if str(error).startswith(f"{self.name}: "):
                raise
            # A mixer's own error does not know the family.
            raise ValueError(f"{self.name}: {error}") from None
        c.check_read()
        return model, table

    def load(self, config: dict[str, Any], weights: Iterable[tuple[str, Tensor]]) -> LanguageModel:
        """Our model with their weights.

        ValueError names a field or a weight that would otherwise be ignored.
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
