"""What a record says of the code that made it: the clone as it was when the run began."""

import subprocess

import pytest

from harness import environment
from harness.record import Git
from harness.rundir import code
from tests.records import make_record


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A git repository whose package folder is harness/, and a function that runs git there."""
    top = tmp_path / "clone"
    (top / "harness").mkdir(parents=True)

    def git(*args):
        names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *names, *args], cwd=top, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (top / "harness" / "lab.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "one")
    real = environment.git
    monkeypatch.setattr(environment, "git", lambda: real(top / "harness"))
    return top, git


def edit(top):
    (top / "harness" / "lab.py").write_text("x = 2\n")


def test_a_run_is_of_the_commit_that_it_began_at(clone):
    top, git = clone
    begun = environment.git()
    assert begun == Git(commit=git("rev-parse", "HEAD"), dirty=False)
    assert environment.since(begun) == begun
    edit(top)
    assert environment.since(begun).dirty, "edited while it ran"
    git("commit", "-qam", "two")
    assert environment.since(begun) == Git(commit=begun.commit, dirty=True), "another commit at its end"


def test_an_edit_that_was_undone_before_the_end_is_not_forgotten(clone):
    top, git = clone
    edit(top)
    begun = environment.git()
    git("checkout", "-q", ".")
    assert not environment.git().dirty
    assert environment.since(begun).dirty


@pytest.mark.parametrize(
    ("first", "second", "dirty"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_run_that_goes_on_was_dirty_if_any_part_of_it_was(clone, tmp_path, first, second, dirty):
    top, git = clone
    for k, edited in enumerate((first, second)):
        git("checkout", "-q", ".")
        if edited:
            edit(top)
        found = code(tmp_path, resumed=k > 0)
    assert found.dirty is dirty
    git("checkout", "-q", ".")
    assert code(tmp_path, resumed=False).dirty is False, "begun anew"


def test_a_run_that_goes_on_at_another_commit_is_of_no_one_commit(clone, tmp_path):
    top, git = clone
    begun = code(tmp_path, resumed=False)
    assert code(tmp_path, resumed=True) == begun
    edit(top)
    git("commit", "-qam", "two")
    assert code(tmp_path, resumed=True) == Git(commit=git("rev-parse", "HEAD"), dirty=True)
    assert code(tmp_path, resumed=True).dirty, "nor is it later"


def test_files_in_no_commit_count_whatever_the_users_settings_hide(clone):
    top, git = clone
    git("config", "status.showUntrackedFiles", "no")
    (top / "harness" / "mine.py").write_text("")
    assert environment.git().dirty


def test_a_clone_whose_state_git_does_not_tell_is_not_clean(clone):
    top, git = clone
    (top / ".git" / "index").write_bytes(b"no index")
    assert environment.git() == Git(commit=git("rev-parse", "HEAD"), dirty=None)


def test_what_is_in_no_clone_has_no_state(tmp_path):
    unknown = environment.git(tmp_path)
    assert unknown == Git(commit=None, dirty=None)
    assert environment.ever_dirty(unknown, Git(commit="a" * 40, dirty=True)) is None
    found = make_record()
    assert found.official
    assert found.doubts == []
    for git in (unknown, Git(commit=None, dirty=False), Git(commit="a" * 40, dirty=None)):
        env = found.environment.model_copy(update={"git": git})
        assert found.model_copy(update={"environment": env}).doubts == ["the harness is of no clean commit"]
