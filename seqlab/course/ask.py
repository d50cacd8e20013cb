"""What runs in the learner's process: set limits, call one function, save its outcomes.

The grader asks a function of the notebook that it ran, the check of a kernel one that it took
along. `save` and `load` are bound before the learner's first cell runs.
"""

import os
import sys
from pathlib import Path
from typing import Any

from torch import cuda, load, save

from seqlab.course.answer import Came, Outcome, answers, calling, load_meter, number
from seqlab.course.taken import restore


def prepare(memory_gb: float) -> None:
    """Bound the kernel's memory, and make exit() an exception like any other."""
    _names().update(exit=sys.exit, quit=sys.exit)
    os.environ.pop("TRITON_INTERPRET", None)  # the lab runs kernels itself
    load_meter()  # before memory is bounded
    try:
        import resource

        # torch maps gigabytes that it never touches: the limit counts from what is mapped now.
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        pass  # no such limit on this system: the time limits remain


def prepare_kernels(memory_gb: float) -> None:
    """Import Triton and run a kernel, so that the first check need not wait for that.

    A GPU's driver maps more memory than there is: with one, memory is not bounded.
    """
    from seqlab.course.kernel import warm_up

    os.environ.pop("TRITON_INTERPRET", None)  # the lab runs kernels itself
    warm_up()
    if not cuda.is_available():
        prepare(memory_gb)


def ask_taken(taken_file: str, inputs_file: str, answers_file: str, seconds: float) -> None:
    """Define a function that was taken along, and call it, here and on a GPU if there is one."""
    function = restore(load(taken_file, weights_only=False))
    inputs = load(inputs_file, weights_only=False)
    outcomes = answers(function, inputs, seconds, calling(kernel=True, gpu=True))
    save([outcome.as_dict() for outcome in outcomes], answers_file)


def ask(
    name: str, inputs_file: str, answers_file: str, numeric: bool, kernel: bool, seconds: float
) -> None:
    """Call the learner's `name` on every input set of the file; save the outcomes as plain data."""
    names = _names()
    if name not in names:
        outcomes = [Outcome(Came.MISSING)]
    elif numeric:
        outcomes = [number(names[name])]
    elif names[name] is ...:
        outcomes = [Outcome(Came.STUB)]
    else:
        # The file is the grader's own, and may hold functions, which only the full loader reads.
        inputs = load(inputs_file, weights_only=False)
        outcomes = answers(names[name], inputs, seconds, calling(kernel))
    save([outcome.as_dict() for outcome in outcomes], answers_file)


def _names() -> dict[str, Any]:
    """What the notebook has defined."""
    from IPython import get_ipython

    shell: Any = get_ipython()
    return shell.user_ns
