"""The section of a recipe's RESULTS.md."""

import json

import pytest

from lrsms.errors import LrsmsError
from lrsms.sweep.tables import add_to_results


@pytest.fixture
def results(tmp_path):
    row = {
        **{"arm": "dense", "split": "test", "seeds": [0], "parameters": 10, "times_fewer_parameters": 1.0},
        **{"macs_per_second": None, "times_fewer_macs": None, "train_step_seconds": 0.1},
        **{"wer_mean": [1.0, None, None], "cer_mean": [0.5, None, None]},
        **{"difference_over_seeds": None, "difference_over_utterances": None},
    }
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings/sizes.json").write_text(json.dumps({"title": "Sizes", "arms": [row, row | {"split": "dev"}]}))
    (tmp_path / "RESULTS.md").write_text("# Results\n")
    return tmp_path


def test_the_section_comes_last_where_nothing_else_follows(results):
    add_to_results(results)
    text = (results / "RESULTS.md").read_text()
    assert text.startswith("# Results\n\n## Sweeps\n\n### Sizes\n\ntest:\n\n| arm ") and text.count("\ndev:\n") == 1
    add_to_results(results)
    assert (results / "RESULTS.md").read_text() == text


@pytest.mark.parametrize("heading", ["Provenance", "How each was made"])
def test_what_follows_the_section_stays_in_pages_of_earlier_versions_too(results, heading):
    page = f"# Results\n\n## Sweeps\n\nold\n\n## {heading}\n\n### dense\n"
    (results / "RESULTS.md").write_text(page)
    add_to_results(results)
    text = (results / "RESULTS.md").read_text()
    assert text.endswith("\n## Provenance\n\n### dense\n") and "old" not in text and "### Sizes" in text


def test_without_findings_the_section_goes(results):
    add_to_results(results)
    (results / "findings/sizes.json").unlink()
    add_to_results(results)
    assert (results / "RESULTS.md").read_text() == "# Results\n"


def test_without_a_results_page_none_is_made(results):
    (results / "RESULTS.md").unlink()
    add_to_results(results)
    assert not (results / "RESULTS.md").exists()


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"arms": []}'])
def test_a_foreign_file_among_the_findings_is_an_error(results, content):
    (results / "findings/sizes.json").write_text(content)
    with pytest.raises(LrsmsError, match="findings/sizes.json is not a sweep's .*--report_only"):
        add_to_results(results)
    assert (results / "RESULTS.md").read_text() == "# Results\n"
