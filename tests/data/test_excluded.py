from lrsms.data.excluded import Exclusion, print_summary, read_excluded, top_reasons, write_excluded


def test_a_stage_replaces_only_its_own_rows(tmp_path):
    path = tmp_path / "train" / "excluded.tsv"
    write_excluded(path, "prepare", [Exclusion("a", "missing_audio", "gone")])
    write_excluded(path, "cuts", [Exclusion("b", "truncated"), Exclusion("c", "truncated")])
    write_excluded(path, "cuts", [Exclusion("d", "empty_text")])
    assert [row.id for row in read_excluded(path)] == ["a", "d"]
    assert read_excluded(path, "prepare") == [Exclusion("a", "missing_audio", "gone")]
    assert path.read_text().splitlines()[0] == "id\tstage\treason\tdetail"


def test_tabs_quotes_and_newlines_do_not_break_the_table(tmp_path):
    path = tmp_path / "excluded.tsv"
    write_excluded(path, "cuts", [Exclusion("a", "unreadable", 'a "b\tc\nd')])
    write_excluded(path, "prepare", [])
    assert read_excluded(path) == [Exclusion("a", "unreadable", 'a "b c d')]


def test_a_missing_file_means_nothing_excluded(tmp_path):
    assert read_excluded(tmp_path / "excluded.tsv") == []


def test_counts_by_reason(capsys):
    rows = [Exclusion("a", "truncated", "short"), Exclusion("b", "empty_text"), Exclusion("c", "truncated")]
    print_summary("dev", rows)
    assert capsys.readouterr().out == "dev: 2 excluded: truncated\ndev: 1 excluded: empty_text\n"
    assert top_reasons(rows, limit=1) == "truncated x 2 (such as a: short)"
