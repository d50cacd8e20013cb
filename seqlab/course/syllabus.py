"""The thirty chapters, as data. Numbers are fixed; a chapter that is not written has no file."""

from typing import NamedTuple


class Chapter(NamedTuple):
    """`name` is that of its files: chapters/{number}_{name}.ipynb."""

    number: str
    name: str
    title: str
    # Index into PARTS.
    part: int
    # The failure it starts from, or the question it answers.
    opens_with: str


# A part's title, then its chapters: name of the files | title | what it opens with.
_LINES = """
Memory
start_here | Start here | What is in this course, and does it run here?
why_architectures | Why architectures | The cache of a long text does not fit where the weights do.
recurrent_networks | Recurrent networks | Attention forgets nothing, and pays for it at each token.
linear_attention | Linear attention | An RNN's training time grows with T on any number of cores.
retnet | RetNet | Linear attention never forgets: old pairs drown the new.
gates | Gates | A constant decay forgets the name as fast as the filler.
state_spaces | State spaces | Gates learned from data still start blind to long range.
mamba2_ssd | Mamba-2 and SSD | Mamba's scan cannot use matrix units.
delta_rule | The delta rule | Additive memories cannot overwrite a key.
rwkv | RWKV | Four generations of one recurrence, read side by side.
xlstm | xLSTM | What did the LSTM lack, and what does a stabiliser do?
griffin | Griffin | How little attention does a recurrence need beside it?
long_convolutions | Long convolutions | What can a filter that ignores its input not select?
test_time_training | Test-time training | What if the state is itself a learner?
Attention, cheaper
flash_attention | Flash attention | The T × T matrix is never needed as a whole.
sparse_attention | Sparse attention | Which pairs of tokens can be left out?
long_context | Long context | A model fails beyond the length it was trained on.
Mixtures and hybrids
mixture_of_experts | Mixture of experts | Every token pays for every weight.
hybrids | Hybrids | Neither attention nor recurrence is enough alone.
recall_gap | The recall gap | Who remembers what, with how much state?
conversion | Conversion | Must a new architecture be trained from nothing?
Beyond text
diffusion_transformers | Diffusion transformers | What changes when the sequence is an image?
bytes_pixels_spikes | Bytes, pixels, spikes | Does a state space help where order is a choice?
Kernels
triton_from_zero | Triton from zero | What does one program of a kernel see?
flash_attention_kernel | Flash attention kernel | The tiles of chapter 14, from your own kernel.
chunked_recurrence_kernel | Chunked recurrence kernel | One kernel, four gates.
scan_and_delta_kernels | Scan and delta kernels | Where does the time go: scan or matmul?
moe_kernels | Mixture kernels | Unequal load is idle programs.
capstone | Capstone | A whole model, before and after your kernels.
Choosing
choosing | Choosing | Which one should I pick?
""".strip()


def _read() -> tuple[tuple[str, ...], tuple[Chapter, ...]]:
    """(the parts' titles, the chapters)"""
    parts: list[str] = []
    chapters: list[Chapter] = []
    for line in _LINES.splitlines():
        if " | " in line:
            name, title, opens_with = line.split(" | ")
            number = f"{len(chapters):02d}"
            chapters.append(Chapter(number, name, title, len(parts) - 1, opens_with))
        else:
            parts.append(line)
    return tuple(parts), tuple(chapters)


PARTS, SYLLABUS = _read()


def written() -> set[str]:
    """Numbers of the chapters that can be opened."""
    from seqlab.course import paths

    sources = paths.root() / "chapters/src"
    return {c.number for c in SYLLABUS if (sources / f"{c.number}_{c.name}.py").is_file()}


def table() -> str:
    """The README's table of chapters; `python -m seqlab.course.syllabus` prints it."""
    here = written()
    lines = ["| | chapter | part | it opens with |", "|---|---|---|---|"]
    for c in SYLLABUS:
        title = c.title
        if c.number in here:
            title = f"**[{title}](chapters/{c.number}_{c.name}.ipynb)**"
        lines.append(f"| {c.number} | {title} | {PARTS[c.part]} | {c.opens_with} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
