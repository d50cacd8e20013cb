"""An update brings the newest course and never loses a line, whatever the learner has done to the
folder.
"""

import os
import shutil
import subprocess

import pytest

from seqlab.course.update import CannotUpdate, update

NB = "chapters/03_linear_attention.ipynb"
EX = "exercises/03_linear_attention.ipynb"

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def git(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)

    def run(folder, *args, check=True):
        who = [
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@b",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "commit.gpgsign=false",
        ]
        done = subprocess.run(
            ["git", "-C", str(folder), *who, *args], capture_output=True, text=True, check=check
        )
        return done.stdout.strip()

    return run


@pytest.fixture
def author(tmp_path, git):
    """The course as its authors have it: one commit."""
    folder = tmp_path / "author"
    folder.mkdir()
    write(
        folder,
        {
            NB: "v1\n",
            EX: "v1\n",
            "seqlab/core.py": "v1\n",
            "pyproject.toml": "v1\n",
            ".gitignore": "work/\n",
        },
    )
    git(folder, "init", "-q", "-b", "main")
    publish(git, folder, {})
    return folder


@pytest.fixture
def learner(tmp_path, git, author, monkeypatch):
    """A clone."""
    folder = tmp_path / "learner"
    git(tmp_path, "clone", "-q", str(author), str(folder))
    monkeypatch.setenv("SEQLAB_HOME", str(folder))
    monkeypatch.delenv("SEQLAB_WORK", raising=False)
    return folder


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def publish(git, author, files):
    write(author, files)
    git(author, "add", "-A")
    git(author, "commit", "-q", "--allow-empty", "-m", "newer")


def kept(learner):
    """All text there is in work/."""
    files = (
        (p for p in (learner / "work").rglob("*") if p.is_file())
        if (learner / "work").exists()
        else ()
    )
    return {p.read_text() for p in files}


def test_a_clean_clone_moves_to_the_newest_version(learner, author, git):
    publish(git, author, {NB: "v2\n", "chapters/04_new.ipynb": "new\n"})
    done = update(learner)
    assert (done.commits, done.saved, done.branch, done.install) == (1, [], None, False)
    assert (learner / NB).read_text() == "v2\n" and (learner / "chapters/04_new.ipynb").exists()
    assert git(learner, "rev-parse", "HEAD") == git(author, "rev-parse", "HEAD")


def test_without_news_nothing_is_touched(learner):
    write(learner, {NB: "mine\n"})
    assert update(learner).commits == 0
    assert (learner / NB).read_text() == "mine\n" and not (learner / "work").exists()


def test_a_notebook_that_was_run_is_moved_to_work_with_a_date(learner, author, git):
    write(learner, {NB: "v1 with outputs\n", EX: "v1 with answers\n"})
    publish(git, author, {NB: "v2\n"})
    done = update(learner)
    assert (learner / NB).read_text() == "v2\n" and (learner / EX).read_text() == "v1\n"
    assert {"v1 with outputs\n", "v1 with answers\n"} <= kept(learner)
    assert all(
        path.parent == learner / "work" and "03_linear_attention" in path.name
        for _, path in done.saved
    )
    assert git(learner, "status", "--porcelain") == ""


def test_other_edits_staged_edits_and_new_staged_files_are_kept(learner, author, git):
    write(
        learner,
        {"seqlab/core.py": "staged\n", "added.py": "added\n", "seqlab/odd näme.py": "odd\n"},
    )
    git(learner, "add", "-A")
    write(learner, {"seqlab/core.py": "staged, then edited\n"})
    publish(git, author, {"seqlab/core.py": "v2\n"})
    update(learner)
    assert (learner / "seqlab/core.py").read_text() == "v2\n"
    assert {"staged\n", "staged, then edited\n", "added\n", "odd\n"} <= kept(learner)


def test_a_deleted_file_comes_back(learner, author, git):
    (learner / NB).unlink()
    publish(git, author, {"seqlab/core.py": "v2\n"})
    update(learner)
    assert (learner / NB).read_text() == "v1\n"


def test_a_renamed_file_keeps_its_edits(learner, author, git):
    git(learner, "mv", "seqlab/core.py", "seqlab/mine.py")
    write(learner, {"seqlab/mine.py": "v1\nedited\n"})
    publish(git, author, {"seqlab/core.py": "v2\n"})
    update(learner)
    assert "v1\nedited\n" in kept(learner) and (learner / "seqlab/core.py").read_text() == "v2\n"


def test_own_commits_stay_on_a_dated_branch(learner, author, git):
    write(learner, {"seqlab/core.py": "my commit\n"})
    git(learner, "commit", "-q", "-am", "mine")
    mine = git(learner, "rev-parse", "HEAD")
    publish(git, author, {"seqlab/core.py": "v2\n"})
    done = update(learner)
    assert done.branch.startswith("saved-") and git(learner, "rev-parse", done.branch) == mine
    assert (learner / "seqlab/core.py").read_text() == "v2\n"
    assert git(learner, "rev-parse", "HEAD") == git(author, "rev-parse", "HEAD")


def test_a_rewritten_history_is_followed_and_the_old_one_kept(learner, author, git):
    old = git(learner, "rev-parse", "HEAD")
    write(author, {"seqlab/core.py": "other v1\n"})
    git(author, "commit", "-q", "-a", "--amend", "-m", "rewritten")
    done = update(learner)
    assert (learner / "seqlab/core.py").read_text() == "other v1\n"
    assert git(learner, "rev-parse", done.branch) == old


def test_untracked_files_in_the_way_are_moved_and_others_stay(learner, author, git):
    write(
        learner,
        {
            "chapters/04_new.ipynb": "my own 04\n",
            "notes.txt": "mine\n",
            "data": "a file\n",
            "x/a/b": "deep\n",
        },
    )
    write(learner, {".git/info/exclude": "notes.txt\n"})
    publish(
        git,
        author,
        {
            "chapters/04_new.ipynb": "new\n",
            "data/table.csv": "1\n",
            "notes.txt": "theirs\n",
            "x/a": "f\n",
        },
    )
    update(learner)
    assert {"my own 04\n", "a file\n", "mine\n", "deep\n"} <= kept(learner)
    assert (learner / "data/table.csv").read_text() == "1\n" and (
        learner / "x/a"
    ).read_text() == "f\n"


def test_untracked_files_not_in_the_way_stay(learner, author, git):
    write(
        learner, {"notes.txt": "mine\n", "work/03.ipynb": "answers\n", "chapters/my.ipynb": "m\n"}
    )
    publish(git, author, {NB: "v2\n"})
    assert update(learner).saved == []
    assert (learner / "notes.txt").read_text() == "mine\n" and (
        learner / "work/03.ipynb"
    ).read_text() == "answers\n"


def test_files_removed_upstream_are_kept_when_they_were_edited(learner, author, git):
    write(learner, {EX: "my answers\n"})
    (author / EX).unlink()
    publish(git, author, {})
    update(learner)
    assert "my answers\n" in kept(learner) and not (learner / EX).exists()


def test_a_folder_tracked_before_and_a_file_now_keeps_what_was_untracked_in_it(
    learner, author, git
):
    write(learner, {"seqlab/own.py": "own\n"})
    shutil.rmtree(author / "seqlab")
    publish(git, author, {"seqlab": "now a file\n"})
    update(learner)
    assert "own\n" in kept(learner) and (learner / "seqlab").read_text() == "now a file\n"


def test_two_updates_in_one_second_overwrite_nothing(learner, author, git, monkeypatch):
    from seqlab.course import records

    monkeypatch.setattr(records, "now", lambda: "2030-01-01-000000")
    for i in (2, 3):
        write(learner, {NB: f"mine {i}\n", "seqlab/core.py": f"core {i}\n"})
        git(learner, "commit", "-q", "-am", f"mine {i}")
        write(learner, {NB: f"mine again {i}\n"})
        publish(git, author, {NB: f"v{i}\n"})
        update(learner)
    assert {"mine again 2\n", "mine again 3\n"} <= kept(learner)
    branches = git(learner, "branch", "--list", "saved-*").split()
    texts = {git(learner, "show", f"{branch}:seqlab/core.py") for branch in branches}
    assert texts == {"core 2", "core 3"}


def test_a_detached_head_and_a_branch_without_upstream_are_followed_too(learner, author, git):
    git(learner, "checkout", "-q", "--detach")
    publish(git, author, {NB: "v2\n"})
    assert update(learner).commits == 1 and (learner / NB).read_text() == "v2\n"
    git(learner, "checkout", "-q", "-b", "my-branch")
    publish(git, author, {NB: "v3\n"})
    assert update(learner).commits == 1 and (learner / NB).read_text() == "v3\n"


def test_changed_requirements_are_told(learner, author, git):
    publish(git, author, {"pyproject.toml": "v2\n"})
    assert update(learner).install


def test_offline_is_a_sentence_and_changes_nothing(learner, author, git):
    write(learner, {NB: "mine\n"})
    publish(git, author, {NB: "v2\n"})
    author.rename(author.with_name("gone"))
    with pytest.raises(
        CannotUpdate, match=r"origin cannot be reached: are you online\? Nothing was changed"
    ):
        update(learner)
    assert (learner / NB).read_text() == "mine\n" and not (learner / "work").exists()


def test_no_remote_no_repository_and_a_merge_under_way_are_sentences(
    learner, author, git, tmp_path
):
    (tmp_path / "plain").mkdir()
    with pytest.raises(CannotUpdate, match="not made by git clone"):
        update(tmp_path / "plain")
    with pytest.raises(CannotUpdate, match="no remote"):
        update(author)
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(CannotUpdate, match="no commit yet"):
        update(tmp_path / "empty")
    (learner / ".git/MERGE_HEAD").write_text(git(learner, "rev-parse", "HEAD") + "\n")
    with pytest.raises(CannotUpdate, match="you are in a merge or rebase"):
        update(learner)


def test_without_git_it_says_so(learner, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotUpdate, match="git is not installed"):
        update(learner)


def test_when_saving_fails_nothing_has_changed(learner, author, git, monkeypatch):
    write(learner, {NB: "mine\n"})
    publish(git, author, {NB: "v2\n"})
    (learner / "work").write_text("a file where the folder should be\n")
    with pytest.raises(OSError):
        update(learner)
    assert (learner / NB).read_text() == "mine\n"
