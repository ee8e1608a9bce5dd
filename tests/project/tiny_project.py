"""A project over three kinds of points, small enough to train in a moment."""

from typing import Any

import numpy as np
import torch
from torch import nn

from loopwright import project

CONFIG: dict[str, dict[str, Any]] = {
    "model_config": {"num_classes": 3, "learning_rate": 0.05, "batch_size": 16},
    "trainer_config": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    "dataset_config": {},
    "metrics": {"accuracy": True, "f1": True, "recall": False, "confusion_matrix": True},
}


def config(**parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the configuration with these keys of its parts changed."""
    return {name: {**part, **parts.get(name, {})} for name, part in CONFIG.items()}


def points(count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Return points [count, 4] around three centres, and which one each belongs to."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, count)
    centres = np.eye(3, 4) * 3
    return (centres[labels] + draw.normal(size=(count, 4))).astype(np.float32), labels


class TinyNetworkModule(project.NetworkModule):
    def load_define_model(self) -> tuple[nn.Module, project.Tokenizer | None]:
        return nn.Linear(4, 3), None


class TinyPlmodel(project.TrainingModule):
    network_module = TinyNetworkModule


class TinyModel(project.Model):
    def define_model(self) -> None:
        self.model = TinyPlmodel(
            model_config=self.model_config,
            metrics_config=self.metrics_config,
            trainer_config=self.trainer_config,
            save_path=self.save_path,
        )


class TinyData(project.Data):
    def load_datasets(self, training: Any, validation: Any, test: Any) -> None:
        sets = [
            None if path is None else project.CustomDataset.from_file(path, self.tokenizer)
            for path in (training, validation, test)
        ]
        self.dataset_train, self.dataset_validation, self.dataset_test = sets

    def create_data_module(self) -> Any:
        self.data_module = project.DataModule(
            model_config=self.model_config,
            train_set=self.dataset_train,
            val_set=self.dataset_validation,
            test_set=self.dataset_test,
        )
        return self.data_module


class TinyTrain(project.Train):
    def execute(self) -> None:
        self.trainer = project.Trainer(**self.trainer_config)
        self.trainer.fit(self.model, self.data_module, resume=self.resume)


class TinyTest(project.Test):
    def load_model(self) -> None:
        self.model = TinyModel(self.model_config, self.metrics_config).get_model()
        project.load_weights(self.model, self.model_path)

    def create_data_module(self) -> None:
        data = TinyData(
            self.model_config, load_datasets=True, test_dataset_path=self.test_dataset_path
        )
        self.data_module = data.get_data_module()


class TinyPreparation(project.DatasetPreparation):
    def load_embedded(self) -> tuple[Any, Any]:
        return points()


class Main(project.Main):
    model_class = TinyModel
    data_class = TinyData
    train_class = TinyTrain
    test_class = TinyTest
    preparation_class = TinyPreparation

    def existing_model(self, train: Any, features: Any) -> Any:
        return features[:, :3].argmax(axis=1)


def module(**model_config: Any) -> TinyPlmodel:
    """Return the module, always with the same weights, with these settings changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyPlmodel(project.MODEL_CONFIG | CONFIG["model_config"] | model_config)


def data_module(**model_config: Any) -> project.DataModule:
    """Return a data module over 80, 20 and 20 points."""
    settings = project.MODEL_CONFIG | CONFIG["model_config"] | model_config
    features, labels = points()
    cut = [slice(0, 80), slice(80, 100), slice(100, 120)]
    sets = [project.CustomDataset(features[rows], labels[rows]) for rows in cut]
    return project.DataModule(settings, *sets)
