"""Result packages, metrics and their plots."""

from loopwright.results.attention import AttentionHeatMap
from loopwright.results.basic_metrics import (
    AccuracyMetric,
    F1ScoreMetric,
    MeanAbsoluteErrorMetric,
    MeanSquaredErrorMetric,
    PrecisionMetric,
    PrecisionRecallCurveAUCMetric,
    RecallMetric,
    ROCAUCMetric,
)
from loopwright.results.basic_packages import (
    BinaryClassificationResultPackage,
    ClassificationResultPackage,
    GeneralResultPackage,
    RegressionResultPackage,
)
from loopwright.results.classification_report import ClassificationReport, classification_report
from loopwright.results.glue import GLUEMetric, XNLIMetric
from loopwright.results.library_packages import HFEvaluateResultPackage, TorchMetricsPackage
from loopwright.results.metric import AbstractBaseMetric
from loopwright.results.package import (
    AbstractResultPackage,
    MultipleResultPackageWrapper,
    PreCalculatedResultPackage,
)
from loopwright.results.resampling import bootstrap_intervals
from loopwright.results.text_metrics import (
    BLEUCorpusScoreMetric,
    BLEUScoreStrTorchNLPMetric,
    BLEUSentenceScoreMetric,
    ExactMatchTextMetric,
    F1TextMetric,
    PerplexityMetric,
    ROUGEMetric,
    ROUGEPerlMetric,
)
from loopwright.results.text_packages import (
    GLUEResultPackage,
    MachineTranslationResultPackage,
    QuestionAnswerResultPackage,
    QuestionAnswerSpanClassificationResultPackage,
    TextSummarizationResultPackage,
    XNLIResultPackage,
)
from loopwright.results.vocabulary import Vocabulary

__all__ = [
    "AbstractBaseMetric",
    "AbstractResultPackage",
    "AccuracyMetric",
    "AttentionHeatMap",
    "BLEUCorpusScoreMetric",
    "BLEUScoreStrTorchNLPMetric",
    "BLEUSentenceScoreMetric",
    "BinaryClassificationResultPackage",
    "ClassificationReport",
    "ClassificationResultPackage",
    "ExactMatchTextMetric",
    "F1ScoreMetric",
    "F1TextMetric",
    "GLUEMetric",
    "GLUEResultPackage",
    "GeneralResultPackage",
    "HFEvaluateResultPackage",
    "MachineTranslationResultPackage",
    "MeanAbsoluteErrorMetric",
    "MeanSquaredErrorMetric",
    "MultipleResultPackageWrapper",
    "PerplexityMetric",
    "PreCalculatedResultPackage",
    "PrecisionMetric",
    "PrecisionRecallCurveAUCMetric",
    "QuestionAnswerResultPackage",
    "QuestionAnswerSpanClassificationResultPackage",
    "ROCAUCMetric",
    "ROUGEMetric",
    "ROUGEPerlMetric",
    "RecallMetric",
    "RegressionResultPackage",
    "TextSummarizationResultPackage",
    "TorchMetricsPackage",
    "Vocabulary",
    "XNLIMetric",
    "XNLIResultPackage",
    "bootstrap_intervals",
    "classification_report",
]
