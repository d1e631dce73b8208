"""README.md, docs/ and the recipes' READMEs: what they show exists. test_commands.py (slow) runs it."""

import re
from pathlib import Path

import pytest
import yaml
from doc_blocks import Command, WrongMarkdown, read_blocks
from doc_checks import faults_of, simple_commands, verb_error

from lrsms.training_yaml import changed, read_training_yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("egs/*/*/README.md")])


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def blocks_of(text, tmp_path):
    (tmp_path / "x.md").write_text(text)
    return read_blocks(tmp_path / "x.md", "x.md")


def faults(text, tmp_path):
    return [fault for block in blocks_of(text, tmp_path) for fault in faults_of(block, ROOT)]


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_commands_show_what_exists(path):
    wrong = [fault for block in read_blocks(path, str(path.relative_to(ROOT))) for fault in faults_of(block, ROOT)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_relative_links_resolve(path):
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]
    for link in links:
        target, _, anchor = link.partition("#")
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{path}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}, link


YAML = [block for path in FILES for block in read_blocks(path, str(path.relative_to(ROOT))) if block.language == "yaml"]


def laid_over(below, above):
    dotted = {key: value for key, value in above.items() if "." in key}
    above = {key: value for key, value in above.items() if key not in dotted}
    below = changed(below, dotted, "the block")
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = {**below[key], **above[key]}
    return both


@pytest.mark.parametrize("block", YAML, ids=[f"{block.file}:{block.line}" for block in YAML])
def test_yaml_builds_a_model(block, tmp_path):
    """As the reader is meant to use it: in a training YAML, which the check reads and ESPnet builds."""
    from lrsms.espnet.config import check_training_config
    from lrsms.espnet.training.task import ASRTask

    content = laid_over(read_training_yaml(ROOT / block.over), yaml.safe_load(block.text))
    if content.get("batch_type"):
        del content["max_duration"]
    config, tokens = tmp_path / "train.yaml", tmp_path / "tokens.txt"
    config.write_text(yaml.safe_dump(content))
    tokens.write_text("<blank>\n<unk>\nA\n<sos/eos>\n")
    check_training_config(config, ASRTask)
    if block.needed_by("") == "k2":
        pytest.importorskip("k2")
    options = ["--config", str(config), "--output_dir", str(tmp_path), "--token_list", str(tokens)]
    assert sum(weight.numel() for weight in ASRTask.build_model(ASRTask.get_parser().parse_args(options)).parameters())


# Each kind of slip is found


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("./run.sh --decode-methd ctc_attention", "unknown option --decode-methd"),
        ("./run.sh --stage four", "--stage 'four': write a whole number"),
        ("./run.sh --ngpu", "--ngpu '--help': write a whole number"),
        ("egs/grid/asr1/run.sh --corpsu-dir DIR", "unknown option --corpsu-dir"),
        ("python -m lrsms.bin.plan --config conf/train_lrsms.yaml --htlm plan.html", "unrecognized arguments: --htlm"),
        ("python -m lrsms.bin.plan --config conf/train_lrsms.yaml --htm plan.html", "unrecognized arguments: --htm"),
        ("python -m lrsms.bin.plan --html plan.html", "arguments are required: --config"),
        ("python -m lrsms.bin.bench traine --size base", "invalid choice: 'traine'"),
        ("python -m lrsms.bin.trascribe exp/X talk.mp3", "there is no verb lrsms.bin.trascribe"),
        ("python -m lrsms.esp -m espnet2.bin.asr_train", "there is no module lrsms.esp"),
        ("python -m lrsms.bin.plan --config conf/train_lrsm.yaml", "conf/train_lrsm.yaml: no such file"),
        ("cd egs/grid/asr1 && python -m lrsms.bin.sweep conf/sweep_syze.yaml", "conf/sweep_syze.yaml: no such file"),
        ("utils/tests.sh", "utils/tests.sh: no such file"),
        ("utils/test.sh", "it would run the suite in the suite"),
        ("pip install -e .", "it would change the environment at hand"),
    ],
)
def test_a_wrong_command_is_found(command, message, tmp_path):
    (fault,) = faults(f"```bash\n{command}\n```\n", tmp_path)
    assert fault.startswith("x.md:2: ") and message in fault
    if command.startswith(("python -m", "./")):
        (fault,) = faults(f"Text, then\n`{command}`.\n", tmp_path)
        assert fault.startswith("x.md:2: ") and message in fault


def test_options_are_checked_for_every_form_of_a_command(tmp_path):
    text = (
        "```sh\ncd egs/grid/asr1  # a folder\nexp=exp/a\n"
        'python -m lrsms.bin.decode --asr_exp $exp \\\n  --splits "a b"\n```'
    )
    assert not faults(text, tmp_path)
    assert "unrecognized arguments: --split a" in faults(text.replace("splits", "split"), tmp_path)[0]
    assert list(simple_commands(Command(1, "cd a && x -b 'c d' \\\n  e  # f"))) == [
        ["cd", "a"],
        ["x", "-b", "c d", "e"],
    ]
    assert not verb_error("lrsms.bin.plan", ["--config", "x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- needs: gup -->\n```bash\nx\n```\n", "x.md:1: needs: gup is unknown; expected one of gpu"),
        ("<!-- needs: gpu: --ngpu -->\n```bash\nx\n```\n", "x.md:1: no command of the block contains '--ngpu'"),
        ("<!-- need: gpu -->\n```bash\nx\n```\n", "x.md:1: the marker 'need: gpu' is unknown"),
        ("<!-- in: -->\n```bash\nx\n```\n", "x.md:1: the marker 'in:' is unknown"),
        ("\n```\nx\n```\n", "x.md:2: the block's language is ''; expected one of bash"),
        (
            "```bash\nx\n<!-- needs: gpu -->\n```\n",
            "x.md:3: the marker stands inside a block; it belongs before line 1",
        ),
        ("```bash\nx\n", "x.md:1: the block is not closed"),
        ("<!-- needs: gpu -->\nNo command here.\n", "x.md:1: the marker stands before a paragraph without a command"),
        ("<!-- needs: gpu -->\n", "x.md:1: the marker stands before nothing"),
    ],
)
def test_wrong_markdown_is_named(text, message, tmp_path):
    with pytest.raises(WrongMarkdown, match=re.escape(message)):
        blocks_of(text, tmp_path)


def test_blocks_carry_their_markers_and_lines(tmp_path):
    text = (
        "One `./run.sh --a\nb` and `run.sh` and `./run.sh --c ...`.\n\n"
        "<!-- in: egs -->\n<!-- needs: gpu: --d -->\n<!-- needs: k2 -->\n\n"
        "```sh\n# comment\n\nx \\\n  --c\ny --d\n```\n"
    )
    inline, fenced = blocks_of(text, tmp_path)
    assert inline.commands == [Command(1, "./run.sh --a b")]
    assert fenced.commands == [Command(11, "x \\\n  --c"), Command(13, "y --d")]
    assert (fenced.folder, fenced.line) == ("egs", 8)
    assert [fenced.needed_by(command.text) for command in fenced.commands] == ["k2", "gpu"]
    assert fenced.needed_by("y --d", frozenset({"gpu", "k2"})) is None
