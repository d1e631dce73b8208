"""Tables in Markdown."""

from lrsms.scoring.report import markdown_table


def test_a_table_reads_well_as_plain_text_and_changes_no_cell():
    rows = [("train_dense", "1,234,567", "12.50", "-"), ("a", "007", "1e5", "")]
    assert markdown_table(("experiment", "parameters", "WER %", "RTF"), rows, left=1) == (
        "| experiment  | parameters | WER % | RTF |\n"
        "| ----------- | ---------: | ----: | --: |\n"
        "| train_dense |  1,234,567 | 12.50 |   - |\n"
        "| a           |        007 |   1e5 |     |"
    )
