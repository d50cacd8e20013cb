"""Training that was stopped, and goes on."""

import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from seqlab.ffn import MoE, SwitchRouter
from seqlab.mixers import RetNet
from seqlab.model import LanguageModel
from seqlab.tasks import Parity, Recall
from seqlab.train import History, train

TASK = Recall(4, 4, 6)
HOW = {"steps": 12, "batch_size": 4, "lr": 1e-2, "show": False}


def model(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    ffn = partial(MoE, n_experts=4, router=SwitchRouter, d_ff=8)
    made = LanguageModel(TASK.vocab, 16, [partial(RetNet, n_heads=2)], ffn=ffn)
    made.norm = nn.Sequential(made.norm, nn.Dropout(dropout))
    return made


class Stopping:
    """The task, which raises at one of its batches, as a run that is stopped there."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def __repr__(self):
        return repr(TASK)

    def batch(self, batch_size, generator):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return TASK.batch(batch_size, generator)


def same(a, b):
    return all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("every", [1, 5, 100])
@pytest.mark.parametrize("at", [1, 2, 6, 12])
def test_stopped_at_any_step_and_started_again_is_the_run_that_went_through(at, every, tmp_path):
    """With dropout, which draws from torch's own generator, and a router that keeps a balance."""
    whole = model(dropout=0.2)
    history, after = train(whole, TASK, **HOW), torch.rand(3)
    file = tmp_path / "run" / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(model(dropout=0.2), Stopping(at), checkpoint=file, every=every, **HOW)
    assert file.exists() == (at > every)
    resumed = model(dropout=0.2)
    again = train(resumed, TASK, checkpoint=file, every=every, **HOW)
    assert again.loss == history.loss and again.accuracy == history.accuracy
    assert same(resumed, whole) and torch.equal(torch.rand(3), after)


def test_stopped_while_writing_the_older_file_counts(tmp_path, monkeypatch):
    file, save = tmp_path / "run.pt", torch.save
    whole = model()
    train(whole, TASK, **HOW)
    written = []

    def half(kept, to):
        written.append(kept)
        if len(written) == 2:
            to.write(b"half a file")
            raise KeyboardInterrupt
        save(kept, to)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        train(model(), TASK, checkpoint=file, every=3, **HOW)
    monkeypatch.setattr(torch, "save", save)
    assert len(torch.load(file, weights_only=True)["history"]["loss"]) == 3
    resumed = model()
    train(resumed, TASK, checkpoint=file, every=3, **HOW)
    assert same(resumed, whole)


CHILD = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_checkpoints import HOW, TASK, Stopping, model, train
class Killed(Stopping):
    def batch(self, *args):
        try:
            return super().batch(*args)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGKILL)
made = model(dropout=0.2)
history = train(made, Killed(int(sys.argv[3])), checkpoint=sys.argv[2], every=2, **HOW)
torch.save([history.loss, made.state_dict()], sys.argv[2] + ".result")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_goes_on(tmp_path):
    file = tmp_path / "run.pt"
    whole = model(dropout=0.2)
    history = train(whole, TASK, **HOW)
    for at, ended in ((6, -signal.SIGKILL), (0, 0)):
        command = [sys.executable, "-c", CHILD, __file__.rsplit("/", 1)[0], str(file), str(at)]
        assert subprocess.run(command, timeout=120).returncode == ended
    loss, weights = torch.load(f"{file}.result", weights_only=True)
    assert loss == history.loss
    assert all(torch.equal(p, weights[name]) for name, p in whole.state_dict().items())


def test_a_finished_run_is_read_back_without_a_step(tmp_path):
    file, first = tmp_path / "run.pt", model()
    history = train(first, TASK, checkpoint=file, **HOW)
    second = model(seed=1)
    again = train(second, Stopping(1), checkpoint=file, **HOW)
    assert again == history and same(first, second)


@pytest.mark.parametrize(
    ("name", "other"), [("lr", 2e-2), ("steps", 13), ("seed", 1), ("solved", 0.9), ("task", None)]
)
def test_a_checkpoint_of_other_arguments_is_refused(name, other, tmp_path):
    file = tmp_path / "run.pt"
    train(model(), TASK, checkpoint=file, **HOW)
    task, how = TASK, HOW | {name: other}
    if name == "task":
        task, how = Recall(4, 4, 7), HOW
    with pytest.raises(ValueError, match=f"another {name}: delete it"):
        train(model(), task, checkpoint=file, **how)


def test_a_solved_task_stops_early_and_stays_stopped(tmp_path):
    class Told(nn.Module):
        """Answers parity by counting; its one weight changes nothing."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, tokens):
            return nn.functional.one_hot(tokens.cumsum(1) % 2, 2) * self.scale, None

    how = HOW | {"steps": 200}
    assert len(train(Told(), Parity(5), **how).loss) == 200
    file = tmp_path / "run.pt"
    for _ in range(2):
        history = train(Told(), Parity(5), solved=0.999, checkpoint=file, **how)
        assert len(history.loss) == 20 and history.accuracy == [1.0] * 20
    assert len(train(model(), TASK, solved=0.999, **HOW).loss) == 12


def test_a_history_plots_itself():
    history = History([2.0, 1.0, 0.5], [0.2, 0.5, 0.9], 1.5)
    fig = history.figure()
    assert [axis.title.text for axis in (fig.layout.yaxis, fig.layout.yaxis2)] == [
        "loss",
        "accuracy",
    ]
    assert list(fig.data[0].y) == history.loss and list(fig.data[2].y) == history.accuracy
    assert fig.layout.title.text == "After 3 steps the accuracy is 90.0%"
    assert history.figure("A finding").layout.title.text == "A finding"
    bundle = history._repr_mimebundle_()
    assert "application/vnd.plotly.v1+json" in bundle
    said = "History(3 steps, loss 2 → 0.5, accuracy 90.0%, 1.5 s)"
    assert bundle["text/plain"] == repr(history) == said
    assert list(History()._repr_mimebundle_()) == ["text/plain"]


def test_the_thick_line_is_the_mean_of_the_last_twentieth():
    from seqlab.figures.training import learning_curves

    history = History([float(i % 7) for i in range(100)], [0.5] * 100)
    thick = learning_curves(history).data[1].y
    expected = [sum(history.loss[max(i - 4, 0) : i + 1]) / min(i + 1, 5) for i in range(100)]
    assert list(thick) == pytest.approx(expected, rel=1e-3)
