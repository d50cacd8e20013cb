"""A checkpoint's configuration that knows which of its fields were read."""

from collections.abc import Iterable
from typing import Any, NoReturn

# No effect on the logits of a model in eval mode: names, token ids, initialisation, dropout,
# losses, outputs.
NO_EFFECT = frozenset(
    """
    _attn_implementation _attn_implementation_internal _name_or_path architectures attention_dropout
    attn_implementation auto_map bos_token_id chunk_size_feed_forward dtype embd_pdrop eos_token_id
    hidden_dropout id2label initializer_range label2id model_type name_or_path num_labels
    output_attentions output_hidden_states output_router_logits pad_token_id pretraining_tp
    problem_type resid_pdrop return_dict router_aux_loss_coef router_jitter_noise tokenizer_class
    torch_dtype torchscript transformers_version use_cache
    """.split()  # noqa: SIM905
)
# Fields that any configuration may have, with the only value that leaves a decoder unchanged.
COMMON = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "per_layer_config": None,
    "pruned_heads": {},
    "quantization_config": None,
    "tie_encoder_decoder": False,
}


class Config:
    """Field by field access to the dict `given`, which remembers what was read.

    `fields` holds the fields that a family knows, each with its value in a configuration without
    it. No field may be ignored in silence: it is read, or it is known to have no effect, or it has
    its default value. `check_known` refuses unknown fields, `check_read` (after building) those
    that were not read and differ from their default.
    """

    def __init__(
        self,
        family: str,
        given: dict[str, Any],
        fields: dict[str, Any],
        no_effect: Iterable[str] = (),
    ):
        self._family = family
        self._read = set()
        self._fields = COMMON | fields
        ignored = NO_EFFECT.union(no_effect)
        self._given = {name: value for name, value in given.items() if name not in ignored}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(f"{name} is not among the fields of {self._family}")
        self._read.add(name)
        value = self._given.get(name, self._fields[name])
        if isinstance(value, str) and isinstance(self._fields[name], int | float):
            default = self._fields[name]
            self.refuse(name, f"is {value!r}: it must be of the kind of {default!r}, its default")
        return value

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raise the ValueError of an unsupported configuration."""
        raise ValueError(f"{self._family}: the config field {name} {why}")

    def per_layer(self, name: str, kinds: list[str], offered: dict[str, Any]) -> list:
        """offered[kind] for the kind that the field `name` gives each layer."""
        if len(kinds) != self.num_hidden_layers:
            layers = self.num_hidden_layers
            self.refuse(name, f"has {len(kinds)} entries, num_hidden_layers is {layers}")
        for kind in kinds:
            if kind not in offered:
                self.refuse(name, f"holds {kind!r}: only {' and '.join(offered)} are supported")
        return [offered[kind] for kind in kinds]

    def check_known(self):
        for name in sorted(self._given.keys() - self._fields.keys()):
            value = self._given[name]
            self.refuse(name, f"is {value!r}, and its effect is unknown: it is not supported")

    def check_read(self):
        for name in sorted(self._given.keys() - self._read):
            value, default = self._given[name], self._fields[name]
            if value != default:
                self.refuse(name, f"is {value!r}: only {default!r} is supported here")
