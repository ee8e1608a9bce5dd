"""Text metrics against references written out here, and the packages of text tasks."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from loopwright.results import (
    BLEUCorpusScoreMetric,
    BLEUScoreStrTorchNLPMetric,
    BLEUSentenceScoreMetric,
    ExactMatchTextMetric,
    F1TextMetric,
    GLUEResultPackage,
    MachineTranslationResultPackage,
    PerplexityMetric,
    QuestionAnswerResultPackage,
    QuestionAnswerSpanClassificationResultPackage,
    ROUGEMetric,
    ROUGEPerlMetric,
    TextSummarizationResultPackage,
    Vocabulary,
    XNLIResultPackage,
)

TRUE = [
    ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "today"],
    ["it", "is", "cold", "and", "the", "sun", "does", "not", "shine"],
    ["one", "two", "three", "four", "five"],
]
PREDICTED = [
    ["the", "quick", "brown", "fox", "jumped", "over", "the", "lazy", "dog", "today"],
    ["it", "is", "cold", "but", "the", "sun", "does", "not", "shine", "much"],
    ["one", "two", "three", "four"],
]


def ngrams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def reference_bleu(true: list[list[str]], predicted: list[list[str]]) -> float:
    """Return the BLEU of a corpus (Papineni et al. 2002, section 2.3), one reference each."""
    logs = []
    for n in range(1, 5):
        pairs = [(ngrams(t, n), ngrams(p, n)) for t, p in zip(true, predicted, strict=True)]
        hits = sum((t & p).total() for t, p in pairs)
        if not hits:
            return 0.0
        logs.append(math.log(hits / sum(p.total() for _, p in pairs)))
    lengths = sum(map(len, true)), sum(map(len, predicted))
    return min(1.0, math.exp(1 - lengths[0] / lengths[1])) * math.exp(sum(logs) / 4)


def reference_rouge(true: list[str], predicted: list[str], n: int) -> float:
    """Return the F1 of n-grams (Lin 2004, section 2)."""
    a, b = ngrams(true, n), ngrams(predicted, n)
    return 2 * (a & b).total() / (a.total() + b.total())


def longest_common(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def test_bleu_equals_the_formula() -> None:
    corpus = BLEUCorpusScoreMetric(TRUE, PREDICTED)
    assert corpus.get_metric() == pytest.approx(reference_bleu(TRUE, PREDICTED), rel=1e-12)
    sentences = [reference_bleu([t], [p]) for t, p in zip(TRUE, PREDICTED, strict=True)]
    metric = BLEUSentenceScoreMetric(TRUE, PREDICTED)
    assert metric.get_metric_dict() == {
        "BLEU_sentence_score": pytest.approx(np.mean(sentences), rel=1e-12)
    }
    moses = BLEUScoreStrTorchNLPMetric(TRUE, PREDICTED)
    assert moses.get_metric() == pytest.approx(100 * np.mean(sentences), rel=1e-12)


def test_bleu_of_equal_texts_is_one_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The mean of logarithms comes out a little above 1."""
    assert BLEUCorpusScoreMetric(TRUE, TRUE).get_metric() == 1.0
    assert BLEUSentenceScoreMetric(TRUE, TRUE).get_metric() == 1.0
    assert not caplog.records


def test_bleu_of_no_common_four_words_is_zero() -> None:
    assert BLEUSentenceScoreMetric([["a", "b", "c", "d"]], [["a", "b", "d", "c"]]).get_metric() == 0
    upper = [[word.upper() for word in tokens] for tokens in TRUE]
    assert BLEUScoreStrTorchNLPMetric(upper, TRUE).get_metric() == 0
    assert BLEUScoreStrTorchNLPMetric(upper, TRUE, lowercase=True).get_metric() == pytest.approx(
        100
    )


def test_rouge_equals_the_formula() -> None:
    found = ROUGEMetric(TRUE, PREDICTED).get_metric()
    pairs = list(zip(TRUE, PREDICTED, strict=True))
    for name, n in (("rouge-1", 1), ("rouge-2", 2)):
        expected = np.mean([reference_rouge(t, p, n) for t, p in pairs])
        assert found[name]["f"] == pytest.approx(expected, rel=1e-12)
    common = [longest_common(t, p) for t, p in pairs]
    assert found["rouge-l"]["r"] == pytest.approx(
        np.mean([c / len(t) for c, (t, _) in zip(common, pairs, strict=True)])
    )
    assert found["rouge-l"]["p"] == pytest.approx(
        np.mean([c / len(p) for c, (_, p) in zip(common, pairs, strict=True)])
    )


def test_rouge_of_the_script_stems_words() -> None:
    true, predicted = [["the", "fox", "jumps"]], [["the", "fox", "jumped"]]
    assert ROUGEMetric(true, predicted).get_metric()["rouge-1"]["f"] == pytest.approx(2 / 3)
    assert ROUGEPerlMetric(true, predicted).get_metric()["rouge_1_f_score"] == 1.0


def test_exact_match_and_f1_of_answers() -> None:
    """Case, punctuation and articles do not count; half of the words give an F1 of 2/3."""
    true = ["The Eiffel Tower!", "in 1889", "Paris"]
    predicted = [["eiffel", "tower"], ["1889"], ["London"]]
    assert ExactMatchTextMetric(true, predicted).get_metric() == pytest.approx(100 / 3)
    assert F1TextMetric(true, predicted).get_metric() == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert F1TextMetric([""], ["the"]).get_metric() == 100.0
    with pytest.raises(ValueError, match="There are 1, 2 texts"):
        ExactMatchTextMetric(["a"], ["a", "b"])


def test_perplexity_is_e_to_the_mean_loss() -> None:
    assert PerplexityMetric([1.0, 2.0]).get_metric() == pytest.approx(math.exp(1.5))
    assert PerplexityMetric({"loss": 0.5}).get_metric() == pytest.approx(math.exp(0.5))
    assert PerplexityMetric(np.float32(0.5)).get_metric() == pytest.approx(math.exp(0.5))


def test_question_answering_compares_spans(tmp_path: Path) -> None:
    paragraphs = [["In", "1889", "in", "Paris", "."], ["a", "red", "fox"]]
    package = QuestionAnswerResultPackage(
        paragraphs, output_text_dir="answers", flatten_result_dict=True
    )
    package.set_experiment_dir_path_for_additional_results("p", "e", "T", str(tmp_path))
    package.prepare_result_package([[1, 1], [1, 2]], [[0, 1], [1, 2]])
    results = package.get_results()
    assert results is not None
    assert results["EM"] == 50.0
    assert results["F1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert results["ROUGE_rouge-1_r"] == 1.0
    [[name, path]] = package.get_additional_results_dump_paths() or []
    assert name == "answers/texts.jsonl"
    assert Path(path) == tmp_path / "p" / "e_T" / "answers" / "texts.jsonl"
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert lines[0] == {"true": "1889", "predicted": "In 1889"}
    assert list(package.plots()) == ["metrics", "f1"]
    assert all(path.is_file() for path in package.save_plots(tmp_path / "plots"))


def test_question_answering_takes_true_texts_and_the_script_of_rouge() -> None:
    package = QuestionAnswerResultPackage(
        [["a", "red", "fox"]], target_actual_text=["red fox"], use_perl_rouge=True
    )
    package.prepare_result_package([[0, 0]], [[1, 2]])
    assert package["EM"] == 100.0
    assert package["ROUGE_Perl"]["rouge_2_recall"] == 1.0
    with pytest.raises(ValueError, match="There are 1, 2 texts"):
        QuestionAnswerResultPackage([["a"]], target_actual_text=["a", "b"])


def test_spans_are_classified_by_their_ends() -> None:
    package = QuestionAnswerSpanClassificationResultPackage()
    package.prepare_result_package([[1, 2], [3, 4]], [[1, 3], [3, 4]])
    assert package.get_results() == {"Accuracy_span_start": 1.0, "Accuracy_span_end": 0.5}


def test_summaries_are_compared_by_rouge(tmp_path: Path) -> None:
    package = TextSummarizationResultPackage(output_text_dir=str(tmp_path))
    package.prepare_result_package(["a red fox"], ["a red dog"])
    assert package["ROUGE"]["rouge-1"]["f"] == pytest.approx(2 / 3)
    assert (tmp_path / "texts.jsonl").is_file()


def words() -> Vocabulary:
    """Return a vocabulary whose words begin at 4."""
    found = Vocabulary("words")
    found.add_sentence(["ein", "roter", "fuchs", "laeuft", "weg"])
    return found


def test_translation_gives_bleu_and_perplexity_and_keeps_heat_maps(tmp_path: Path) -> None:
    package = MachineTranslationResultPackage(
        words(),
        source_vocab=words(),
        source_sents=["a red fox runs away", "a fox"],
        output_text_dir="texts",
        output_attn_heatmap_dir="attention",
    )
    assert package.requires_loss
    package.set_experiment_dir_path_for_additional_results("p", "e", "T", str(tmp_path))
    metadata = {
        "loss": {"loss": 0.25},
        "attention_matrices": [np.ones((6, 3)), np.ones((6, 3))],
        "source_sent_text": [[2, 4, 3], [2, 6, 3]],
    }
    true, predicted = [[4, 5, 6, 7, 8, 3], [4, 6, 3]], [[4, 5, 6, 7, 3, 0], [4, 6, 3]]
    package.prepare_result_package(true, predicted, {}, additional_results=metadata)
    texts = [["ein", "roter", "fuchs", "laeuft", "weg"], ["ein", "fuchs"]]
    translated = [texts[0][:4], texts[1]]
    assert package["BLEU_corpus_score"] == pytest.approx(reference_bleu(texts, translated))
    assert package["Perplexity"] == pytest.approx(math.exp(0.25))
    assert len(package["Attention_HeatMap"]) == 2
    names = [name for name, _ in package.get_additional_results_dump_paths() or []]
    assert names == ["texts/texts.jsonl", "attention.zip"]
    assert (tmp_path / "p" / "e_T" / "attention.zip").is_file()
    assert list(package.plots()) == ["metrics", "sentence_bleu"]


def test_translation_says_what_it_lacks() -> None:
    package = MachineTranslationResultPackage(words())
    with pytest.raises(ValueError, match="The perplexity needs the loss"):
        package.prepare_result_package([[4]], [[4]])
    with pytest.raises(ValueError, match="source_sents is not"):
        MachineTranslationResultPackage(words(), output_text_dir="texts")


def test_glue_tasks_are_judged_by_their_metrics() -> None:
    true, predicted = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]
    package = GLUEResultPackage("mrpc")
    package.prepare_result_package(true, predicted)
    assert package.get_results() == {
        "GLUE_mrpc_acc": pytest.approx(3 / 5),
        "GLUE_mrpc_f1": pytest.approx(2 / 3),
        "GLUE_mrpc_acc_and_f1": pytest.approx((3 / 5 + 2 / 3) / 2),
    }
    package = GLUEResultPackage("cola")
    package.prepare_result_package(true, predicted)
    expected = sklearn_metrics.matthews_corrcoef(true, predicted)
    assert package["GLUE_cola_mcc"] == pytest.approx(expected)
    package = GLUEResultPackage("mnli-mm")
    package.prepare_result_package([0, 2], [[1.0, 0, 0], [0, 1, 0]])
    assert package.get_results() == {"GLUE_mnli-mm_mnli-mm_acc": 0.5}


def test_glue_similarities_are_judged_by_correlations() -> None:
    true, predicted = [0.0, 1.0, 2.0, 5.0], [0.1, 0.9, 1.5, 2.0]
    package = GLUEResultPackage("sts-b")
    package.prepare_result_package(true, predicted)
    pearson = np.corrcoef(true, predicted)[0, 1]
    assert package["GLUE_sts-b_pearson"] == pytest.approx(pearson)
    assert package["GLUE_sts-b_spearmanr"] == pytest.approx(1.0)
    assert package["GLUE_sts-b_corr"] == pytest.approx((pearson + 1) / 2)


def test_glue_knows_its_tasks() -> None:
    with pytest.raises(ValueError, match=r"'mrpcc' is no task of GLUE. The tasks are: cola, mrpc"):
        GLUEResultPackage("mrpcc").prepare_result_package([1], [1])


def test_xnli_is_judged_by_accuracy() -> None:
    package = XNLIResultPackage()
    package.prepare_result_package([0, 1], [0, 2])
    assert package.get_results() == {"xnli_accuracy_acc": 0.5}
