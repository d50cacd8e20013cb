"""The thirty chapters, as data. Numbers are fixed; a chapter that is not written yet has no
file.
"""

from typing import NamedTuple

PARTS = (
    "Memory",
    "Attention, cheaper",
    "Mixtures and hybrids",
    "Beyond text",
    "Kernels",
    "Choosing",
)


class Chapter(NamedTuple):
    number: str
    name: str  # of its files: chapters/{number}_{name}.ipynb
    title: str
    part: int  # index into PARTS
    opens_with: str  # the failure it starts from, or the question it answers


SYLLABUS = tuple(
    Chapter(f"{i:02d}", *row)
    for i, row in enumerate(
        [
            ("start_here", "Start here", 0, "What is in this course, and does it run here?"),
            (
                "why_architectures",
                "Why architectures",
                0,
                "The cache of a long text does not fit where the weights do.",
            ),
            (
                "recurrent_networks",
                "Recurrent networks",
                0,
                "Attention forgets nothing, and pays for it at each token.",
            ),
            (
                "linear_attention",
                "Linear attention",
                0,
                "An RNN's training time grows with T on any number of cores.",
            ),
            ("retnet", "RetNet", 0, "Linear attention never forgets: old pairs drown the new."),
            ("gates", "Gates", 0, "A constant decay forgets the name as fast as the filler."),
            (
                "state_spaces",
                "State spaces",
                0,
                "Gates learned from data still start blind to long range.",
            ),
            ("mamba2_ssd", "Mamba-2 and SSD", 0, "Mamba's scan cannot use matrix units."),
            ("delta_rule", "The delta rule", 0, "Additive memories cannot overwrite a key."),
            ("rwkv", "RWKV", 0, "Four generations of one recurrence, read side by side."),
            ("xlstm", "xLSTM", 0, "What did the LSTM lack, and what does a stabiliser do?"),
            ("griffin", "Griffin", 0, "How little attention does a recurrence need beside it?"),
            (
                "long_convolutions",
                "Long convolutions",
                0,
                "What can a filter that ignores its input not select?",
            ),
            (
                "test_time_training",
                "Test-time training",
                0,
                "What if the state is itself a learner?",
            ),
            (
                "flash_attention",
                "Flash attention",
                1,
                "The T × T matrix is never needed as a whole.",
            ),
            ("sparse_attention", "Sparse attention", 1, "Which pairs of tokens can be left out?"),
            (
                "long_context",
                "Long context",
                1,
                "A model fails beyond the length it was trained on.",
            ),
            ("mixture_of_experts", "Mixture of experts", 2, "Every token pays for every weight."),
            ("hybrids", "Hybrids", 2, "Neither attention nor recurrence is enough alone."),
            ("recall_gap", "The recall gap", 2, "Who remembers what, with how much state?"),
            ("conversion", "Conversion", 2, "Must a new architecture be trained from nothing?"),
            (
                "diffusion_transformers",
                "Diffusion transformers",
                3,
                "What changes when the sequence is an image?",
            ),
            (
                "bytes_pixels_spikes",
                "Bytes, pixels, spikes",
                3,
                "Does a state space help where order is a choice?",
            ),
            ("triton_from_zero", "Triton from zero", 4, "What does one program of a kernel see?"),
            (
                "flash_attention_kernel",
                "Flash attention kernel",
                4,
                "The tiles of chapter 14, from your own kernel.",
            ),
            (
                "chunked_recurrence_kernel",
                "Chunked recurrence kernel",
                4,
                "One kernel, four gates.",
            ),
            (
                "scan_and_delta_kernels",
                "Scan and delta kernels",
                4,
                "Where does the time go: scan or matmul?",
            ),
            ("moe_kernels", "Mixture kernels", 4, "Unequal load is idle programs."),
            ("capstone", "Capstone", 4, "A whole model, before and after your kernels."),
            ("choosing", "Choosing", 5, "Which one should I pick?"),
        ]
    )
)


def written() -> set[str]:
    """Numbers of the chapters that are there to open."""
    from seqlab.course import paths

    return {
        c.number
        for c in SYLLABUS
        if (paths.root() / f"chapters/src/{c.number}_{c.name}.py").is_file()
    }


def table() -> str:
    """The syllabus as a Markdown table, for the README: `python -m seqlab.course.syllabus` prints
    it.
    """
    here, lines = written(), ["| | chapter | part | it opens with |", "|---|---|---|---|"]
    for c in SYLLABUS:
        title = (
            f"**[{c.title}](chapters/{c.number}_{c.name}.ipynb)**" if c.number in here else c.title
        )
        lines.append(f"| {c.number} | {title} | {PARTS[c.part]} | {c.opens_with} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
