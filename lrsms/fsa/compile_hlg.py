"""Compose the decoding graph HLG: CTC's topology, lexicon and n-gram language model to one acceptor.

As icefall composes it (Kaldi's recipe without context dependency and HMM): L after G, determinized, symbols that
only told words apart removed, then H after that. Its weights are the language model's log-probabilities alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from lrsms import stamp
from lrsms.errors import LrsmsError
from lrsms.files import write_json
from lrsms.fsa import import_k2
from lrsms.fsa.graph import GRAPH, Graph
from lrsms.fsa.lang import LEXICON, MISSING, MODEL, graph_folder, inputs_of, make_language
from lrsms.fsa.lattice import LatticeSearch
from lrsms.fsa.lexicon import Arc, Lexicon, language_arcs
from lrsms.fsa.ngram import NGram

REPORT = "graph.json"
_CHECKED = 100  # training sentences that a new graph must accept


def make_graph(
    lang: Path, cuts: Sequence[Path], *, order: int = 3, arpa: Path | None = None, force: bool = False
) -> Path:
    """Make lexicon, language model and graph of the training text, unless they exist and nothing has changed.

    The folder then holds ``HLG.pt``, ``lm.arpa``, ``lexicon.txt`` (a word and its tokens), ``missing_words.tsv``
    (words of the text that the tokens cannot spell) and ``graph.json`` (sizes).

    Args:
        lang: folder of stage 2.
        cuts: manifests of the training splits.
        order: of the n-gram model that is estimated.
        arpa: a language model to take in place of it.
        force: make it again.

    Returns:
        The folder, :func:`lrsms.fsa.lang.graph_folder`.

    Raises:
        LrsmsError: k2 or an input is missing, or a training sentence that the language model knows is not accepted.
    """
    import_k2("a decoding graph")
    folder, arguments, inputs = graph_folder(lang, order, arpa), {"order": order}, inputs_of(lang, cuts, arpa)
    files = [folder / name for name in (GRAPH, MODEL, LEXICON, MISSING, REPORT)]
    marker = folder / "inputs.json"
    if not force and all(path.exists() for path in files) and stamp.is_current(marker, arguments, inputs):
        print(f"{folder}: the decoding graph exists and its inputs have not changed; skipped")
        return folder
    language = make_language(lang, cuts, order, arpa)
    model, lexicon, sentences = language.model, language.lexicon, language.sentences
    graph, left_out = _compose(model, lexicon)
    rejected = check_graph(graph, model, sentences)
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    language.write(folder)
    graph.save(folder / GRAPH)
    report = {
        **{"words": len(lexicon.spellings), "missing_words": len(lexicon.missing), "order": model.order},
        **{"ngrams": len(model.log10), "ngrams_left_out": left_out, "perplexity_train": model.perplexity(sentences)},
        **{"states": graph.states, "arcs": len(graph.arcs), "sentences_outside": rejected},
    }
    write_json(folder / REPORT, report)
    stamp.write(marker, arguments, inputs)
    _say(folder, report, lexicon, len(sentences))
    return folder


def _say(folder: Path, report: dict, lexicon: Lexicon, sentences: int) -> None:
    print(
        f"{folder}: {report['words']} words, {report['ngrams']} n-grams up to {report['order']} words, perplexity "
        f"{report['perplexity_train']:.2f} on their own text; graph of {report['states']} states, {report['arcs']} arcs"
    )
    if lexicon.missing:
        examples = ", ".join(map(repr, list(lexicon.missing)[:5]))
        print(f"{folder}: {len(lexicon.missing)} words have no tokens and cannot be recognized, such as {examples}")
    if report["ngrams_left_out"]:
        print(f"{folder}: {report['ngrams_left_out']} n-grams hold words without tokens and were left out")
    if report["sentences_outside"]:
        print(f"{folder}: {report['sentences_outside']} of {sentences} training sentences cannot be recognized")


def _compose(model: NGram, lexicon: Lexicon) -> tuple[Graph, int]:
    k2 = import_k2("a decoding graph")
    words, left_out = language_arcs(model, lexicon)
    composed = k2.connect(k2.compose(_fsa(lexicon.arcs()), k2.arc_sort(_fsa(words))))
    composed = k2.connect(k2.determinize(composed))
    labels = composed.labels.clone()
    labels[labels >= lexicon.first_extra_token] = 0
    composed.labels = labels
    composed = k2.arc_sort(k2.connect(k2.remove_epsilon(composed)))
    topology = k2.ctc_topo(len(lexicon.token_list) - 1)
    graph = k2.arc_sort(k2.connect(k2.compose(topology, composed, inner_labels="tokens")))
    outputs = graph.aux_labels
    if isinstance(outputs, torch.Tensor):  # one for each arc, -1 on arcs into the final state
        outputs = k2.RaggedTensor(outputs.clamp(min=0)[:, None].contiguous())
    outputs = outputs.remove_values_leq(0)
    return Graph(graph.arcs_as_tensor(), outputs.values, outputs.shape.row_splits(1), lexicon), left_out


def _fsa(arcs: Iterable[Arc]):
    k2 = import_k2("a decoding graph")
    arcs = sorted(arcs)
    numbers = torch.tensor([arc[:4] for arc in arcs], dtype=torch.int32)
    scores = torch.tensor([arc[4] for arc in arcs], dtype=torch.float32)
    table = torch.cat([numbers[:, :3], scores.view(torch.int32)[:, None]], dim=1).contiguous()
    return k2.Fsa(table, aux_labels=numbers[:, 3].contiguous())


def check_graph(graph: Graph, model: NGram, sentences: Iterable[Sequence[str]]) -> int:
    """Let the graph recognize training sentences from perfect scores of CTC.

    Args:
        graph: unscaled.
        model: its language model.
        sentences: words; of the different ones that lexicon and model know, so many are tried as take seconds.

    Returns:
        How many sentences hold a word that the lexicon or the language model lacks.

    Raises:
        LrsmsError: a sentence comes out as another, or less likely than the language model has it.
    """
    counts = Counter(map(tuple, sentences))
    spelled = {
        words: count for words, count in counts.items() if all(word in graph.lexicon.spellings for word in words)
    }
    known = {words: model.score(words) for words in spelled}
    known = {words: score for words, score in known.items() if words and score > float("-inf")}
    search = LatticeSearch(graph, lm_scale=1.0)
    chosen = sorted(known)[:: max(1, len(known) // _CHECKED)][:_CHECKED]
    for words in tqdm(chosen, desc="checking the graph", unit="sentence", dynamic_ncols=True, leave=False):
        ids = graph.lexicon.spell(words)
        frames = [0, *(label for token in ids for label in (token, 0))]
        scores = torch.full((len(frames), len(graph.lexicon.token_list)), -1e4)
        scores[torch.arange(len(frames)), frames] = 0.0
        best = search.best(scores)
        if best is None or best.words != words or best.token_ids != ids or best.score < known[words] - 0.01:
            raise LrsmsError(
                f"the decoding graph does not accept the training sentence {' '.join(words)!r} with its probability "
                f"{known[words]:.3f}: {best}; this k2 cannot be used"
            )
    return sum(count for words, count in counts.items() if words and words not in known)
