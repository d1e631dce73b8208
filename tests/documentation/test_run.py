"""The runner of documented commands, on commands that take no time, and what its clone makes small."""

import os

import pytest
from doc_blocks import read_blocks
from doc_clone import small
from doc_run import run_file


class Folder:
    """Stands for a clone: a folder in which nothing has to be provided."""

    def __init__(self, folder):
        self.folder = folder / "repository"
        self.folder.mkdir()
        self.forgotten: list[str] = []

    def environment(self):
        return dict(os.environ)

    def provide(self, text, folder):
        pass

    def forget(self, text):
        self.forgotten.append(text)


@pytest.fixture
def run(tmp_path):
    def run(text, available=()):
        (tmp_path / "x.md").write_text(text)
        clone = Folder(tmp_path)
        return run_file(read_blocks(tmp_path / "x.md", "x.md"), clone, frozenset(available)), clone

    return run


def test_commands_of_a_block_share_a_shell_and_what_failed_is_named(run):
    report, clone = run(
        "```sh\nmkdir a; cd a\nx=1  # one\ntouch \\\n  b$x\n```\n\n```sh\necho why; (exit 3)\ntrue\n```\n"
    )
    assert (clone.folder / "a/b1").exists()
    assert [row.split("s  ")[1] for row in report.ran] == [
        *("x.md:2: `mkdir a; cd a`", "x.md:3: `x=1 # one`", "x.md:4: `touch b$x`"),
    ]
    failed, behind = report.failed
    assert failed.startswith("x.md:9: `echo why; (exit 3)`: exit status 3 after ") and failed.endswith("why")
    assert behind == "x.md:10: `true`: not run, because one before it failed"


def test_markers_choose_what_runs(run):
    text = (
        "<!-- needs: gpu: b -->\n<!-- after: touch before -->\n```sh\ntouch a\ntouch b\n```\n"
        "<!-- alternatives -->\n```sh\ntouch c\ntouch d # --stage 3\n```\n"
    )
    report, clone = run(text)
    assert {path.name for path in clone.folder.iterdir()} == {"before", "a", "c", "d"}
    assert clone.forgotten == ["touch c"] and not report.failed
    assert report.skipped == ["x.md:5: `touch b` needs gpu: one or more GPUs"]


def test_what_is_available_is_not_skipped(run):
    report, clone = run("<!-- needs: k2 -->\n```python\nopen('a', 'w')\n```\n", available=["k2"])
    assert (clone.folder / "a").exists() and not report.skipped + report.failed


def test_configurations_keep_their_keys_and_lose_their_size():
    train = {"encoder": "conformer", "encoder_conf": {"num_blocks": 12, "macaron_style": True}, "max_epoch": 40}
    assert small(train) == {
        "encoder": "conformer",
        "encoder_conf": {"num_blocks": 2, "macaron_style": True},
        "max_epoch": 1,
    }
    sweep = {"base": "x", "reference": "b", "arms": {"a": 1, "b": 2, "c": 3}, "seeds": [0, 1], "grid": {"k": [1, 2]}}
    assert small(sweep) == {**sweep, "arms": {"b": 2, "a": 1}, "seeds": [0], "grid": {"k": [1]}}
