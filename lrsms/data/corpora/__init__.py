"""One module for each corpus, run as ``python -m lrsms.data.corpora.<corpus>``: stage 0 of its recipe.

Each has ``parser()``, its options (:class:`lrsms.data.corpus_command.CorpusParser`), and ``main()``. Nothing else lists
the corpora: a new module here and a recipe in ``egs/`` are all that another one needs. Lhotse is imported where it is
used, so that ``--help`` and a stage that is skipped need not wait for torch.
"""
