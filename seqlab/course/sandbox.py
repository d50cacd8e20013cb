"""Run code with a time limit in a kernel that may hang, crash or flood, and always end it.

Limits are seconds of processor time, of all threads and children of the kernel together: a busy
machine takes nothing from anyone. Code that waits instead of computing is stopped after PATIENCE
times as long.
"""

import os
import queue
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL
from uuid import uuid4

import psutil
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

# Seconds by the clock for each second of processor time.
PATIENCE = 10
# Seconds by the clock in which an interrupted cell must end.
GRACE = 5.0


class ThisPython(KernelSpecManager):
    """Every kernel name means ipykernel in this Python, whatever kernels the user has installed."""

    def get_kernel_spec(self, kernel_name):
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(
            argv=argv,
            display_name="Python 3 (ipykernel)",
            language="python",
            interrupt_mode="signal",
        )


class Sandbox:
    """One kernel process. Its output is not read at all, so no amount of printing can hurt."""

    def __init__(self, folder: Path):
        # In the environment of the kernel and of everything that it starts.
        self.mark = uuid4().hex
        quiet = {"TQDM_DISABLE": "1", "MPLBACKEND": "agg", "MALLOC_ARENA_MAX": "4"}
        env = {**os.environ, **quiet, "SEQLAB_GRADING": self.mark}
        self.manager = KernelManager(kernel_spec_manager=ThisPython())
        self.manager.start_kernel(cwd=str(folder), env=env, stdout=DEVNULL, stderr=DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels(iopub=False, stdin=False, hb=False, control=False)
        self.client.allow_stdin = False
        self.used = 0.0

    def run(self, code: str, seconds: float) -> str:
        """Run one cell. Returns "" if it ends well, else what happened, as the end of a sentence.

        `used` is then what it took, in seconds of processor time. If the process died, or caught
        the interrupt and went on, the kernel is gone.
        """
        self._drain()
        self.used, before = 0.0, self._processor_seconds()
        id = self.client.execute(
            code, silent=False, store_history=True, allow_stdin=False, stop_on_error=False
        )
        reply = self._reply(id, before, seconds, PATIENCE * seconds)
        if reply is None and self.alive:
            took = self._took(seconds)
            self.manager.interrupt_kernel()
            reply = self._reply(id, before, None, GRACE)
            if reply is not None:
                return f"{took} and was stopped"
            self.close()
            return f"{took} and would not stop"
        if reply is None:
            self.close()
            return "ended the Python process"
        if reply["status"] == "ok":
            return ""
        said = " ".join(str(reply.get("evalue", "")).split())[:200]
        name = reply.get("ename", "an error")
        return f"raised {name}: {said}" if said else f"raised {name}"

    @property
    def alive(self) -> bool:
        return self.manager.is_alive()

    def close(self) -> None:
        """Kill the kernel and everything it started."""
        self.client.stop_channels()
        with suppress(Exception):
            self.manager.shutdown_kernel(now=True)
        left = [process for process in psutil.process_iter() if self._started(process)]
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=3)
        self.manager.context.destroy(linger=0)

    def _started(self, process: psutil.Process) -> bool:
        """Whether this kernel started the process, even if that has moved to another session."""
        try:
            return process.environ().get("SEQLAB_GRADING") == self.mark
        except (psutil.Error, OSError):
            return False

    def _took(self, seconds: float) -> str:
        if self.used >= seconds:
            return f"ran longer than {seconds:g} s"
        return f"waited longer than {PATIENCE * seconds:g} s"

    def _reply(self, id: str, before: float, seconds: float | None, waits: float) -> dict | None:
        """The reply to message `id`; None if it used `seconds` of the processor since `before`, or
        `waits` by the clock, or if the kernel is dead.
        """
        stop = time.monotonic() + waits
        while (left := stop - time.monotonic()) > 0:
            try:
                message = self.client.get_shell_msg(timeout=min(left, 0.25))
            except queue.Empty:
                message = None
            self.used = max(self.used, self._processor_seconds() - before)
            if message is not None and message["parent_header"].get("msg_id") == id:
                return message["content"]
            if not self.alive or (seconds is not None and self.used >= seconds):
                return None
        return None

    def _processor_seconds(self) -> float:
        """Processor time of the kernel and of what it started, so far; 0 if it is gone."""
        try:
            kernel = psutil.Process(getattr(self.manager.provisioner, "pid", None))
            return sum(_seconds_of(p) for p in (kernel, *kernel.children(recursive=True)))
        except (psutil.Error, AttributeError):
            return 0.0

    def _drain(self) -> None:
        with suppress(queue.Empty):
            while True:
                self.client.get_shell_msg(timeout=0)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _seconds_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system
