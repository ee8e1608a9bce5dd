"""Result packages of text tasks: answers, summaries, translations, GLUE and XNLI."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loopwright.experiment_folder import ExperimentFolder
from loopwright.results import plots
from loopwright.results.attention import AttentionHeatMap
from loopwright.results.basic_metrics import AccuracyMetric
from loopwright.results.glue import GLUEMetric, XNLIMetric
from loopwright.results.package import AbstractResultPackage
from loopwright.results.text_files import TEXTS_FILE
from loopwright.results.text_metrics import (
    BLEUCorpusScoreMetric,
    BLEUSentenceScoreMetric,
    ExactMatchTextMetric,
    F1TextMetric,
    PerplexityMetric,
    ROUGEMetric,
    ROUGEPerlMetric,
    Text,
    joined,
    require_pairs,
    sentence_bleu,
    token_f1,
)


class _TextPackage(AbstractResultPackage):
    """Keeps its texts in a folder inside of the experiment's, once it knows that."""

    output_text_dir: str | None = None

    def set_experiment_dir_path_for_additional_results(
        self,
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str,
        local_model_result_folder_path: str,
    ) -> None:
        folder = ExperimentFolder(
            project_name, experiment_name, experiment_timestamp, local_model_result_folder_path
        )
        if self.output_text_dir is not None:
            self.output_text_dir = str(folder.path / self.output_text_dir)

    def list_additional_results_dump_paths(self) -> list[list[str]] | None:
        if self.output_text_dir is None:
            return None
        folder = Path(self.output_text_dir)
        return [[f"{folder.name}/{TEXTS_FILE}", str(folder / TEXTS_FILE)]]


class QuestionAnswerResultPackage(_TextPackage):
    """Compares answers, given as spans of tokens in paragraphs, by ROUGE, exact match and F1.

    Labels and predictions are [N, 2]: the first and the last token of the answer.

    Args:
        paragraph_text_tokens: The tokens of each of the N paragraphs.
        target_actual_text: The true answers, where they are not taken from the spans.
        output_text_dir: Folder below the experiment's that gets the answers as `texts.jsonl`.
        use_perl_rouge: Whether ROUGE is `ROUGEPerlMetric`.
        flatten_result_dict: Whether nested results get one joined name each.
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(
        self,
        paragraph_text_tokens: Sequence[Sequence[Any]],
        target_actual_text: Sequence[Text] | None = None,
        output_text_dir: str | None = None,
        use_perl_rouge: bool = False,
        flatten_result_dict: bool = False,
        strict_content_check: bool = False,
        **kwargs: Any,
    ) -> None:
        if target_actual_text is not None:
            require_pairs(paragraph_text_tokens, target_actual_text)
        super().__init__("QuestionAnswerResult", strict_content_check, **kwargs)
        self.paragraph_text_tokens = [[str(t) for t in tokens] for tokens in paragraph_text_tokens]
        self.target_actual_text = target_actual_text
        self.output_text_dir = output_text_dir
        self.use_perl_rouge = use_perl_rouge
        self.flatten_result_dict = flatten_result_dict

    def prepare_results_dict(self) -> dict[str, Any]:
        true, predicted = self._answers()
        rouge = ROUGEPerlMetric if self.use_perl_rouge else ROUGEMetric
        results = rouge(true, predicted, output_text_dir=self.output_text_dir).get_metric_dict()
        results |= ExactMatchTextMetric(true, predicted) + F1TextMetric(true, predicted)
        return flatten_dict(results) if self.flatten_result_dict else results

    def plots(self) -> dict[str, Callable[[Any], Any]]:
        scores = [token_f1(*pair) for pair in zip(*self._answers(), strict=True)]
        return super().plots() | {"f1": lambda ax: plots.plot_histogram(scores, "F1", ax=ax)}

    def _answers(self) -> tuple[list[str], list[str]]:
        require_pairs(self.paragraph_text_tokens, self.y_true, self.y_predicted)
        predicted = self._spans(self.y_predicted)
        if self.target_actual_text is None:
            return self._spans(self.y_true), predicted
        return [joined(text) for text in self.target_actual_text], predicted

    def _spans(self, ends: Any) -> list[str]:
        pairs = zip(self.paragraph_text_tokens, ends.astype(int).tolist(), strict=True)
        return [" ".join(tokens[first : last + 1]) for tokens, (first, last) in pairs]


class QuestionAnswerSpanClassificationResultPackage(AbstractResultPackage):
    """Gives the accuracy of the first and of the last token of answers, both [N, 2].

    Args:
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(self, strict_content_check: bool = False, **kwargs: Any) -> None:
        super().__init__("QuestionAnswerSpanClassificationResult", strict_content_check, **kwargs)

    def prepare_results_dict(self) -> dict[str, Any]:
        accuracy = {
            name: AccuracyMetric(self.y_true[:, column], self.y_predicted[:, column], None)
            for column, name in enumerate(("span_start", "span_end"))
        }
        return {f"Accuracy_{name}": metric.get_metric() for name, metric in accuracy.items()}


class TextSummarizationResultPackage(_TextPackage):
    """Compares summaries with references by ROUGE; both are texts or their tokens.

    Args:
        strict_content_check: Whether missing content raises rather than warns.
        output_text_dir: Folder below the experiment's that gets both as `texts.jsonl`.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(
        self,
        strict_content_check: bool = False,
        *,
        output_text_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__("TextSummarizationResult", strict_content_check, np_array=False, **kwargs)
        self.output_text_dir = output_text_dir

    def prepare_results_dict(self) -> dict[str, Any]:
        metric = ROUGEMetric(self.y_true, self.y_predicted, output_text_dir=self.output_text_dir)
        return metric.get_metric_dict()


class MachineTranslationResultPackage(_TextPackage):
    """Gives BLEU of the corpus and of sentences, and the perplexity; can keep attention heat maps.

    Labels and predictions are token indices of N sentences. The perplexity needs the loss of the
    data set, and heat maps need `attention_matrices` and `source_sent_text` (token indices) in the
    metadata that `get_predictions` returns.

    Args:
        target_vocab: Has `convert_idx_sent2sent(indices, rm_default_tokens)`, which returns tokens.
        source_vocab: Likewise, of the source language.
        source_sents: The texts that are translated.
        output_text_dir: Folder below the experiment's that gets texts as `texts.jsonl`.
        output_attn_heatmap_dir: Folder below the experiment's that gets a heat map per sentence.
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(
        self,
        target_vocab: Any,
        source_vocab: Any = None,
        source_sents: Sequence[Text] | None = None,
        output_text_dir: str | None = None,
        output_attn_heatmap_dir: str | None = None,
        strict_content_check: bool = False,
        **kwargs: Any,
    ) -> None:
        if output_text_dir is not None and source_sents is None:
            raise ValueError("output_text_dir is given and source_sents is not; give both.")
        if output_attn_heatmap_dir is not None and source_vocab is None:
            raise ValueError("output_attn_heatmap_dir is given and source_vocab is not; give both.")
        super().__init__("MachineTranslationResult", strict_content_check, np_array=False, **kwargs)
        self.requires_loss = True
        self.target_vocab = target_vocab
        self.source_vocab = source_vocab
        self.source_sents = source_sents
        self.output_text_dir = output_text_dir
        self.output_attn_heatmap_dir = output_attn_heatmap_dir
        self.y_true_text: list[list[str]] = []
        self.y_predicted_text: list[list[str]] = []

    def prepare_results_dict(self) -> dict[str, Any]:
        self.y_true_text = self._tokens(self.y_true)
        self.y_predicted_text = self._tokens(self.y_predicted)
        metadata = (self.additional_results or {}).get("additional_results") or {}
        if "loss" not in metadata:
            raise ValueError(
                "The perplexity needs the loss of the data set: pass additional_results={'loss': "
                "...}. ModelPerformanceEvaluation does."
            )
        corpus = BLEUCorpusScoreMetric(self.y_true_text, self.y_predicted_text)
        sentences = BLEUSentenceScoreMetric(
            self.y_true_text, self.y_predicted_text, self.source_sents, self.output_text_dir
        )
        results = corpus + (sentences + PerplexityMetric(metadata["loss"]))
        if self.output_attn_heatmap_dir is None:
            return results
        sources = [
            self.source_vocab.convert_idx_sent2sent(sentence, rm_default_tokens=False)
            for sentence in metadata["source_sent_text"]
        ]
        return (
            results
            | AttentionHeatMap(
                metadata["attention_matrices"],
                sources,
                self.y_predicted_text,
                self.output_attn_heatmap_dir,
            ).get_metric_dict()
        )

    def set_experiment_dir_path_for_additional_results(
        self,
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str,
        local_model_result_folder_path: str,
    ) -> None:
        where = project_name, experiment_name, experiment_timestamp, local_model_result_folder_path
        super().set_experiment_dir_path_for_additional_results(*where)
        if self.output_attn_heatmap_dir is not None:
            folder = ExperimentFolder(*where).path
            self.output_attn_heatmap_dir = str(folder / self.output_attn_heatmap_dir)

    def list_additional_results_dump_paths(self) -> list[list[str]] | None:
        paths = super().list_additional_results_dump_paths() or []
        if self.output_attn_heatmap_dir is not None:
            folder = self.output_attn_heatmap_dir
            zipped = self.zip_additional_results_dump(folder, folder)
            paths.append([Path(zipped).name, zipped])
        return paths or None

    def plots(self) -> dict[str, Callable[[Any], Any]]:
        scores = sentence_bleu(self.y_true_text, self.y_predicted_text)
        histogram = {"sentence_bleu": lambda ax: plots.plot_histogram(scores, "BLEU", ax=ax)}
        return super().plots() | histogram

    def _tokens(self, sentences: Any) -> list[list[str]]:
        convert = self.target_vocab.convert_idx_sent2sent
        plain = (s.tolist() if hasattr(s, "tolist") else s for s in sentences)
        return [convert(sentence, rm_default_tokens=True) for sentence in plain]


class GLUEResultPackage(AbstractResultPackage):
    """Gives the metrics of a task of GLUE as `GLUE_TASK_METRIC`.

    Args:
        task_name: Such as "mrpc"; see `loopwright.results.glue.TASKS`.
    """

    def __init__(self, task_name: str) -> None:
        super().__init__("GLUE benchmark")
        self.task_name = task_name

    def prepare_results_dict(self) -> dict[str, Any]:
        return flatten_dict(
            GLUEMetric(self.y_true, self.y_predicted, self.task_name).get_metric_dict()
        )


class XNLIResultPackage(AbstractResultPackage):
    """Gives the accuracy of XNLI as `xnli_accuracy_acc`."""

    def __init__(self) -> None:
        super().__init__("XNLI benchmark")

    def prepare_results_dict(self) -> dict[str, Any]:
        return flatten_dict(XNLIMetric(self.y_true, self.y_predicted).get_metric_dict())


def flatten_dict(results: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested results with one joined name each, `OUTER_INNER`."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, dict):
            flat |= flatten_dict(value, f"{prefix}{name}_")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
