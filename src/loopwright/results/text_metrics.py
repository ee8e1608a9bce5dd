"""Metrics of texts: exact match, F1, ROUGE (rouge-score), BLEU (sacrebleu) and perplexity."""

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loopwright.extras import require
from loopwright.results.metric import AbstractBaseMetric
from loopwright.results.text_files import write_texts

Text = str | Sequence[str]
"""A text, or its tokens."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def joined(text: Text) -> str:
    """Return a text as one string."""
    return text if isinstance(text, str) else " ".join(str(token) for token in text)


def normalize_answer(text: str) -> str:
    """Return a text in lower case without punctuation, articles and extra space.

    Answers are compared so in SQuAD (Rajpurkar et al. 2016, section 6.1).
    """
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def token_f1(true: str, predicted: str) -> float:
    """Return the F1 of the words of two answers, from 0 to 1 (SQuAD 2.0).

    Two answers without words agree, which is 1.
    """
    true_words, words = normalize_answer(true).split(), normalize_answer(predicted).split()
    if not true_words or not words:
        return float(true_words == words)
    common = (Counter(true_words) & Counter(words)).total()
    return 2 * common / (len(true_words) + len(words))


class _TextPairs(AbstractBaseMetric):
    """Compares N texts with their references.

    Args:
        y_true: References, each a text or its tokens.
        y_predicted: Texts or their tokens, in the same order.
        target_actual_text: Says that references are texts; both forms are told apart anyway.
        output_text_dir: Where both are written to `texts.jsonl`, one line per pair; None does not.
    """

    name: str

    def __init__(
        self,
        y_true: Sequence[Text],
        y_predicted: Sequence[Text],
        target_actual_text: bool = False,
        output_text_dir: str | None = None,
    ) -> None:
        self.target_actual_text = target_actual_text
        self.output_text_dir = output_text_dir
        require_pairs(y_true, y_predicted)
        true, predicted = [joined(text) for text in y_true], [joined(text) for text in y_predicted]
        if output_text_dir is not None:
            write_texts(output_text_dir, true=true, predicted=predicted)
        super().__init__(true, predicted, metric_name=self.name, np_array=False)


class ExactMatchTextMetric(_TextPairs):
    """Is the percentage of answers that equal their reference after `normalize_answer`."""

    name = "EM"

    def calculate_metric(self) -> float:
        pairs = zip(self.y_true, self.y_predicted, strict=True)
        return 100 * float(np.mean([normalize_answer(t) == normalize_answer(p) for t, p in pairs]))


class F1TextMetric(_TextPairs):
    """Is the mean of `token_f1` as a percentage."""

    name = "F1"

    def calculate_metric(self) -> float:
        pairs = zip(self.y_true, self.y_predicted, strict=True)
        return 100 * float(np.mean([token_f1(true, predicted) for true, predicted in pairs]))


class ROUGEMetric(_TextPairs):
    """Is ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), each with `f`, `p` and `r` from 0 to 1.

    Values are means over samples; words are compared in lower case and without stemming.
    """

    name = "ROUGE"
    kinds = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}

    def calculate_metric(self) -> dict[str, Any]:
        scores = _rouge_scores(self.y_true, self.y_predicted, self.kinds.values(), stem=False)
        return {
            name: {
                "f": scores[kind].fmeasure,
                "p": scores[kind].precision,
                "r": scores[kind].recall,
            }
            for name, kind in self.kinds.items()
        }


class ROUGEPerlMetric(_TextPairs):
    """Is ROUGE with stemming, under the names of the Perl script ROUGE-1.5.5.

    Computed by rouge-score, which reproduces that script's numbers; no Perl is needed.
    """

    name = "ROUGE_Perl"
    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}

    def calculate_metric(self) -> dict[str, float]:
        scores = _rouge_scores(self.y_true, self.y_predicted, self.kinds.values(), stem=True)
        found = {}
        for name, kind in self.kinds.items():
            found[f"{name}_recall"] = scores[kind].recall
            found[f"{name}_precision"] = scores[kind].precision
            found[f"{name}_f_score"] = scores[kind].fmeasure
        return found


def _rouge_scores(true: Any, predicted: Any, kinds: Any, *, stem: bool) -> dict[str, Any]:
    """Return the mean score of each kind over all pairs."""
    scoring = require("rouge_score.scoring", extra="text")
    scorer = require("rouge_score.rouge_scorer", extra="text").RougeScorer(list(kinds), stem)
    pairs = zip(true, predicted, strict=True)
    scores = [scorer.score(reference, text) for reference, text in pairs]
    return {
        kind: scoring.Score(*np.mean([score[kind] for score in scores], axis=0).tolist())
        for kind in kinds
    }


class _BLEU(AbstractBaseMetric):
    """Is BLEU without smoothing (Papineni et al. 2002) of tokens as they are, up to 4-grams.

    Args:
        y_true: The tokens of one reference for each sentence.
        y_predicted: The tokens of each translation.
        source_sents: The sentences that were translated; needed to write texts.
        output_text_dir: Where sources, translations and references are written to `texts.jsonl`.
    """

    name: str

    def __init__(
        self,
        y_true: Sequence[Text],
        y_predicted: Sequence[Text],
        source_sents: Sequence[Text] | None = None,
        output_text_dir: str | None = None,
    ) -> None:
        require_pairs(y_true, y_predicted)
        if output_text_dir is not None and source_sents is None:
            raise ValueError("output_text_dir is given and source_sents is not; give both.")
        self.source_sents = source_sents
        self.output_text_dir = output_text_dir
        true, predicted = [joined(text) for text in y_true], [joined(text) for text in y_predicted]
        super().__init__(true, predicted, metric_name=self.name, np_array=False)
        if output_text_dir is not None and source_sents is not None:
            require_pairs(source_sents, predicted)
            sources = [joined(text) for text in source_sents]
            write_texts(output_text_dir, source=sources, true=true, predicted=predicted)


class BLEUSentenceScoreMetric(_BLEU):
    """Is the mean of the sentences' BLEU, from 0 to 1; see `sentence_bleu`."""

    name = "BLEU_sentence_score"

    def calculate_metric(self) -> float:
        return float(np.mean(sentence_bleu(self.y_true, self.y_predicted)))


class BLEUCorpusScoreMetric(_BLEU):
    """Is the BLEU of all sentences together, from 0 to 1."""

    name = "BLEU_corpus_score"

    def calculate_metric(self) -> float:
        return _corpus_bleu(self.y_true, self.y_predicted)


class BLEUScoreStrTorchNLPMetric(_BLEU):
    """Is the mean of the sentences' BLEU from 0 to 100, the scale of Moses' multi-bleu.

    Args:
        y_true: As in the other BLEU metrics.
        y_predicted: Likewise.
        lowercase: Whether case is left out of the comparison.
        source_sents: Likewise.
        output_text_dir: Likewise.
    """

    name = "BLEU_str_torchNLP_score"

    def __init__(
        self,
        y_true: Sequence[Text],
        y_predicted: Sequence[Text],
        lowercase: bool = False,
        source_sents: Sequence[Text] | None = None,
        output_text_dir: str | None = None,
    ) -> None:
        self.lowercase = lowercase
        super().__init__(y_true, y_predicted, source_sents, output_text_dir)

    def calculate_metric(self) -> float:
        scores = sentence_bleu(self.y_true, self.y_predicted, lowercase=self.lowercase)
        return 100 * float(np.mean(scores))


def sentence_bleu(
    y_true: Sequence[Text], y_predicted: Sequence[Text], *, lowercase: bool = False
) -> list[float]:
    """Return the BLEU of each sentence, from 0 to 1.

    Without smoothing it is 0 where a sentence shares no 4-gram with its reference.
    """
    pairs = zip(y_true, y_predicted, strict=True)
    return [
        _corpus_bleu([joined(true)], [joined(text)], lowercase=lowercase) for true, text in pairs
    ]


def _corpus_bleu(true: list[str], predicted: list[str], *, lowercase: bool = False) -> float:
    bleu = require("sacrebleu.metrics", extra="text").BLEU(
        lowercase=lowercase, tokenize="none", smooth_method="none", force=True
    )
    return min(1.0, float(bleu.corpus_score(predicted, [true]).score) / 100)  # it rounds up past 1


class PerplexityMetric(AbstractBaseMetric):
    """Is e to the mean loss.

    Args:
        batch_losses: A mean cross-entropy in nats, or several, or a dict of them by name.
    """

    def __init__(self, batch_losses: Any) -> None:
        super().__init__(None, batch_losses, metric_name="Perplexity", np_array=False)

    def calculate_metric(self) -> float:
        losses = self.y_predicted
        if isinstance(losses, Mapping):
            losses = list(losses.values())
        return math.exp(float(np.mean([float(loss) for loss in np.ravel(losses)])))


def require_pairs(*texts: Sequence[Any]) -> None:
    """Raise a `ValueError` unless all have the same length, which is not 0."""
    lengths = [len(each) for each in texts]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(
            f"There are {', '.join(map(str, lengths))} texts, and as many of each are expected, at "
            "least one: one prediction for each reference, in the same order."
        )
