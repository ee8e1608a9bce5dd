"""What is kept of an experiment of a TrainLoop: folders, models, results and histories."""

from loopwright.experiment_folder import ExperimentFolder, new_timestamp
from loopwright.tracking.cloud_savers import (
    FullPyTorchExperimentGoogleStorageSaver,
    FullPyTorchExperimentS3Saver,
    GoogleStorageResultsSaver,
    PyTorchGoogleStorageModelSaver,
    PyTorchS3ModelSaver,
    S3ResultsSaver,
)
from loopwright.tracking.data_access import (
    BaseDataLoader,
    BaseDataSaver,
    BaseGoogleStorageDataLoader,
    BaseGoogleStorageDataSaver,
)
from loopwright.tracking.experiment_savers import (
    FullPyTorchExperimentLocalSaver,
    make_experiment_saver,
    make_model_saver,
)
from loopwright.tracking.history_reports import (
    GradientPlotter,
    TrainingHistoryPlotter,
    TrainingHistoryWriter,
)
from loopwright.tracking.hyperparameters import HyperParamSourceReporter, with_source_paths
from loopwright.tracking.model_files import (
    LocalSubOptimalModelRemover,
    PyTorchLocalModelLoader,
    PyTorchLocalModelSaver,
)
from loopwright.tracking.model_loading import (
    CloudModelLoader,
    PyTorchGoogleStorageModelLoader,
    PyTorchS3ModelLoader,
    make_model_loader,
)
from loopwright.tracking.results_files import LocalResultsSaver, load_results
from loopwright.tracking.training_history import TrainingHistory
from loopwright.tracking.uploads import (
    ExperimentUploader,
    Uploader,
    finish_uploads,
    make_uploader,
)

__all__ = [
    "BaseDataLoader",
    "BaseDataSaver",
    "BaseGoogleStorageDataLoader",
    "BaseGoogleStorageDataSaver",
    "CloudModelLoader",
    "ExperimentFolder",
    "ExperimentUploader",
    "FullPyTorchExperimentGoogleStorageSaver",
    "FullPyTorchExperimentLocalSaver",
    "FullPyTorchExperimentS3Saver",
    "GoogleStorageResultsSaver",
    "GradientPlotter",
    "HyperParamSourceReporter",
    "LocalResultsSaver",
    "LocalSubOptimalModelRemover",
    "PyTorchGoogleStorageModelLoader",
    "PyTorchGoogleStorageModelSaver",
    "PyTorchLocalModelLoader",
    "PyTorchLocalModelSaver",
    "PyTorchS3ModelLoader",
    "PyTorchS3ModelSaver",
    "S3ResultsSaver",
    "TrainingHistory",
    "TrainingHistoryPlotter",
    "TrainingHistoryWriter",
    "Uploader",
    "finish_uploads",
    "load_results",
    "make_experiment_saver",
    "make_model_loader",
    "make_model_saver",
    "make_uploader",
    "new_timestamp",
    "with_source_paths",
]
