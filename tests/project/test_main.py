"""What running a project does: training, test, evaluation of an existing model, comparison."""

import json
import logging
import os
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from loopwright import project  # noqa: E402
from loopwright.errors import (  # noqa: E402
    ConfigurationError,
    MissingExtraError,
    RunInterrupted,
    SealedTestSetError,
)
from loopwright.events import TrainerCallback  # noqa: E402
from loopwright.exports import load_export  # noqa: E402
from loopwright.run_folder import read_run  # noqa: E402

from .tiny_project import (  # noqa: E402
    Main,
    TinyData,
    TinyPreparation,
    TinyTest,
    TinyTrain,
    config,
    data_module,
    module,
    points,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Main:
    """Return a project that has trained; tests leave its folder as it is, but for reports."""
    settings = config(model_config={"save_last_model": True, "model_name": "points"})
    main = Main(cfg=settings, dataset_path=None, force_save_path=tmp_path_factory.mktemp("runs"))
    main.best = main.execute_trainer()  # type: ignore[attr-defined]
    return main


def test_D_62_and_D_68_a_training_leaves_a_run(trained: Main) -> None:
    folder = trained.save_path
    assert folder is not None
    assert read_run(folder).status["status"] == "finished"
    record = json.loads((folder / "project.json").read_text())
    assert trained.best == folder / record["models"]["best"]  # type: ignore[attr-defined]
    assert (folder / record["models"]["best"]).exists()
    assert trained.runs / record["trained_on"]["training"] == trained.training_path
    assert record["config"]["model_config"]["learning_rate"] == 0.05


def test_D_36_and_D_34_the_last_model_has_the_name_that_is_configured(trained: Main) -> None:
    assert trained.save_path is not None
    last = load_export(trained.save_path / "points.pt")["model_state_dict"]
    kept = load_export(trained.save_path / "last.pt")["model_state_dict"]
    assert all(torch.equal(last[name], kept[name]) for name in kept)


def test_D_69_the_data_are_kept_beside_the_run(trained: Main) -> None:
    assert trained.save_path is not None
    with zipfile.ZipFile(trained.save_path / "dataset.zip") as archive:
        names = sorted(archive.namelist())
        assert names == ["test_dataset.npz", "train_dataset.npz", "val_dataset.npz"]
        content = archive.read("train_dataset.npz")
    assert trained.training_path is not None
    assert content == Path(trained.training_path).read_bytes()


def test_D_69_unless_that_is_switched_off(tmp_path: Path) -> None:
    settings = config(dataset_config={"save_dataset": False})
    main = Main(cfg=settings, force_save_path=tmp_path)
    main.execute_trainer()
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]
    assert not (tmp_path / "v1" / "dataset.zip").exists()
    aside = Path(str(main.training_path)).parents[1]
    assert aside.exists()
    del main
    assert not aside.exists()


def test_D_63_and_D_52_and_D_48_a_test_returns_what_is_switched_on(trained: Main) -> None:
    test = Main(cfg=config(), test_dataset_path=None, force_save_path=trained.runs)
    results = test.execute_test(model_path=trained.best)  # type: ignore[attr-defined]
    assert results.keys() == {"accuracy", "f1", "confusion_matrix"}
    assert results["accuracy"] > 0.5
    assert test.test_dataset_path == trained.test_dataset_path
    assert test.save_path == trained.save_path
    assert test.results is not None
    assert results["accuracy"] == np.mean(test.results.targets == test.results.predictions)


def test_a_test_without_a_path_takes_the_best_model_of_the_newest_run(
    trained: Main, tmp_path: Path
) -> None:
    given = trained.execute_test(model_path=trained.best)  # type: ignore[attr-defined]
    assert trained.execute_test() == given
    with pytest.raises(ConfigurationError, match="holds no model. Train first, or give model_path"):
        Main(cfg=config(), force_save_path=tmp_path).execute_test()
    with pytest.raises(ConfigurationError, match=r"There is no model .*none\.pt. Check model_path"):
        Main(cfg=config(), force_save_path=tmp_path).execute_test(model_path=tmp_path / "none.pt")


def test_a_run_that_kept_no_model_is_not_tested_with_that_of_an_older_run(tmp_path: Path) -> None:
    Main(cfg=config(), force_save_path=tmp_path).execute_trainer()
    keeps_none = config(trainer_config={"enable_checkpointing": False, "max_epochs": 1})
    main = Main(cfg=keeps_none, force_save_path=tmp_path)
    model_path = main.execute_trainer()
    assert model_path is None
    with pytest.raises(ConfigurationError, match="newest run .*v2 kept no model"):
        main.execute_test(model_path=model_path)


def test_the_model_of_a_run_is_tested_on_the_test_set_of_that_run(trained: Main) -> None:
    """A new seed divides the data anew, and would put training samples into the test set."""
    other = Main(cfg=config(model_config={"seed": 7}), force_save_path=trained.runs)
    assert other.test_dataset_path != trained.test_dataset_path
    other.execute_test(model_path=trained.best)  # type: ignore[attr-defined]
    assert str(other.test_dataset_path) == str(trained.test_dataset_path)


def test_D_72_validation_and_test_leave_a_picture_and_a_report(trained: Main) -> None:
    results = trained.execute_test()
    assert trained.save_path is not None
    for part in ("val", "test"):
        picture = (trained.save_path / f"{part}_confusion_matrix.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        report = json.loads((trained.save_path / f"{part}_report.json").read_text())
        assert report["samples"] == {"val": 18, "test": 12}[part]
        assert np.sum(report["classes"]["confusion_matrix"]) == report["samples"]
    assert report["metrics"] == results


def test_D_64_the_existing_model_is_evaluated_on_the_same_set(trained: Main) -> None:
    evaluation = Main(cfg=config(), test_dataset_path=None, force_save_path=trained.runs)
    results = evaluation.execute_eval()
    features, labels = project.read_samples(evaluation.test_dataset_path or "")
    assert results is not None
    assert results["accuracy"] == np.mean(features[:, :3].argmax(1) == labels)


def test_D_71_what_fails_is_logged_with_its_traceback(
    trained: Main, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Main):
        def existing_model(self, train: Any, features: Any) -> Any:
            raise OSError("no such server")

    with caplog.at_level(logging.ERROR):
        assert Fails(cfg=config(), force_save_path=trained.runs).execute_eval() is None
    assert "no such server" in caplog.text
    assert "in existing_model" in caplog.text


def test_D_53_and_D_77_both_are_compared_on_the_same_rows(trained: Main) -> None:
    """The four calls of the document, in its words."""
    runs, settings = trained.runs, config()
    model_path = trained.best  # type: ignore[attr-defined]

    main_class_test = Main(cfg=settings, test_dataset_path=None, force_save_path=runs)
    test_results = main_class_test.execute_test(model_path=model_path)

    main_class_eval = Main(cfg=settings, test_dataset_path=None, force_save_path=runs)
    eval_results = main_class_eval.execute_eval()

    comparison_results = project.Comparison(
        test_results=test_results, eval_results=eval_results, metrics_config=settings["metrics"]
    ).compare()
    assert eval_results is not None
    assert comparison_results == {
        name: {"trained": test_results[name], "eval": eval_results[name]}
        for name in ("accuracy", "f1", "confusion_matrix")
    }
    with_intervals = project.Comparison(
        test_results,
        eval_results,
        settings["metrics"],
        **project.rows_of(main_class_test, main_class_eval),
        num_resamples=50,
    ).compare()
    assert isinstance(with_intervals, dict)
    found = with_intervals["f1"]
    assert found["difference"] == pytest.approx(found["trained"] - found["eval"])
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]


def test_models_measured_on_different_test_sets_are_not_compared(trained: Main) -> None:
    """The model of a run is tested on that run's test set, whatever the seed is now."""
    settings = config(model_config={"seed": 7})
    tested, evaluated = (Main(cfg=settings, force_save_path=trained.runs) for _ in range(2))
    tested.execute_test(model_path=trained.best)  # type: ignore[attr-defined]
    evaluated.execute_eval()
    with pytest.raises(ConfigurationError, match="on different targets: .* same test_dataset_path"):
        project.rows_of(tested, evaluated)


def test_D_53_the_suggested_compare_of_the_document_works() -> None:
    class Suggested(project.Comparison):
        def compare(self) -> Any:
            if self.test_results is None or self.eval_results is None:
                return "No test results found."

            self.comparison_results = {
                metric: {"trained": self.test_results[metric], "eval": self.eval_results[metric]}
                for metric in self.metrics
                if metric in self.test_results
                and metric in self.eval_results
                and self.metrics[metric]
            }
            return self.comparison_results

    results = {"accuracy": 0.5, "f1": 1.0}
    own = Suggested(test_results=results, eval_results=results, metrics_config={"f1": True})
    assert own.compare() == {"f1": {"trained": 1.0, "eval": 1.0}}
    assert Suggested(None, results, {}).compare() == project.Comparison(None, results, {}).compare()


def test_D_70_runs_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "v7").mkdir()
    main = Main(cfg=config(), force_save_path=tmp_path)
    main.execute_trainer()
    assert main.save_path == tmp_path / "v8"
    assert Main(cfg=config(trainer_config={}), force_save_path=tmp_path)._new_run().name == "v9"


def test_D_70_they_lie_beside_the_file_of_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Main, "split", lambda self: None)
    assert Main(cfg=config()).runs == Path(__file__).parent / "training_output"
    elsewhere = config(trainer_config={"default_root_dir": "there"})
    assert Main(cfg=elsewhere).runs == Path("there")
    assert Main(cfg=elsewhere, force_save_path="forced").runs == Path("forced")


def test_D_19_and_D_20_the_initialiser_divides_where_there_are_no_paths(tmp_path: Path) -> None:
    calls = []

    class Told(Main):
        def split(self) -> None:
            calls.append("split")

    Told(cfg=config())
    assert calls == ["split"]
    paths = [project.write_samples(tmp_path / f"{n}.npz", *points(9)) for n in "abc"]
    Told(config(), *paths)
    assert calls == ["split"]
    Told(config(), *paths, force_dataset_split=True)
    assert calls == ["split"] * 2
    Told(config(), *paths).prepare_datasets()
    assert calls == ["split"] * 3


def test_D_65_and_D_67_the_paths_and_the_four_parts(tmp_path: Path) -> None:
    paths = [project.write_samples(tmp_path / f"{n}.npz", *points(9)) for n in "abc"]
    main = Main(config(dataset_config={"own": 1}), *paths, False, force_save_path=tmp_path / "runs")
    assert [main.training_path, main.validation_path, main.test_dataset_path] == paths
    assert main.model_config["learning_rate"] == 0.05
    assert main.trainer_config["max_epochs"] == 2
    assert main.dataset_config["own"] == 1
    assert main.metrics_config["recall"] is False
    main.execute_trainer()
    assert json.loads((main.save_path / "val_report.json").read_text())["samples"] == 9  # type: ignore[operator]


def test_a_project_may_read_its_samples_file_by_file(tmp_path: Path) -> None:
    class Iterated(TinyData):
        def load_datasets(self, *paths: Any) -> None:
            sets = [None if path is None else project.IterableDataset(path) for path in paths]
            self.dataset_train, self.dataset_validation, self.dataset_test = sets

    class FileByFile(Main):
        data_class = Iterated

    settings = config(model_config={"save_checkpoint_as_pt2": True})
    main = FileByFile(cfg=settings, force_save_path=tmp_path)
    assert main.execute_trainer() is not None
    assert (tmp_path / "v1" / "best.pt2").exists()
    assert json.loads((tmp_path / "v1" / "val_report.json").read_text())["samples"] == 18


def test_a_data_set_of_ones_own_is_divided(tmp_path: Path) -> None:
    path = project.write_samples(tmp_path / "mine.npz", *points(40))
    for options in (
        {"dataset_path": path},
        {"cfg": config(dataset_config={"dataset_path": str(path)})},
    ):
        main = Main(**{"cfg": config(), "force_save_path": tmp_path / "runs", **options})
        assert len(project.read_samples(main.training_path or "")[1]) == 30


def test_D_66_without_any_data_the_error_says_what_to_give(tmp_path: Path) -> None:
    class Bare(Main):
        preparation_class = project.DatasetPreparation

    with pytest.raises(ConfigurationError, match="There is no data: no paths were given"):
        Bare(cfg=config(), force_save_path=tmp_path)
    path = project.write_samples(tmp_path / "a.npz", *points(9))
    with pytest.raises(ConfigurationError, match="training_path is None and validation_path None"):
        Main(config(), test_dataset_path=path, force_save_path=tmp_path).execute_trainer()
    only = Main(config(), training_path=path, validation_path=path, force_save_path=tmp_path)
    with pytest.raises(ConfigurationError, match="There is no test set; test_dataset_path is None"):
        only.execute_test(model_path=tmp_path / "x.pt")
    assert only.execute_eval() is None


def test_D_33_and_D_30_a_train_class_holds_what_it_was_given(tmp_path: Path) -> None:
    holder, model = data_module(), module()
    train = TinyTrain(
        {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False},
        project.MODEL_CONFIG,
        holder.train_set,
        holder.val_set,
        model,
        holder,
        tmp_path,
    )
    assert train.get_trainer() is None
    train.execute()
    assert isinstance(train.get_trainer(), project.Trainer)
    with pytest.raises(NotImplementedError, match="Train has no execute"):
        project.Train({}, {}, [1], [1], model, holder, tmp_path).execute()


def test_what_an_export_needs_is_missed_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    settings = config(model_config={"save_checkpoint_as_onnx": True})
    main = Main(cfg=settings, force_save_path=tmp_path)
    with pytest.raises(MissingExtraError, match="'onnx' is needed here"):
        main.execute_trainer()
    assert not list((tmp_path / "v1").iterdir())


@pytest.mark.parametrize("missing", ["training", "validation"])
def test_D_10_and_D_31_a_set_that_is_missing_is_named(missing: str, tmp_path: Path) -> None:
    sets = {"train_dataset": [1], "validation_dataset": [1]}
    sets |= {"train_dataset" if missing == "training" else "validation_dataset": None}  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match=f"There is no {missing} set"):
        TinyTrain({}, {}, **sets, model=None, data_module=None, save_path=tmp_path)


def test_D_51_a_test_class_sets_up_in_order() -> None:
    calls = []

    class Told(TinyTest):
        def load_model(self) -> None:
            calls.append("load_model")

        def create_data_module(self) -> None:
            calls.append("create_data_module")

        def trainer_setup(self) -> None:
            calls.append("trainer_setup")

    test = Told("m.pt", "t.npz", {"max_epochs": 2}, {"seed": 1}, {"f1": True}, "out")
    assert calls == ["load_model", "create_data_module", "trainer_setup"]
    assert (test.model_path, test.test_dataset_path, test.save_path) == ("m.pt", "t.npz", "out")
    for method in ("load_model", "create_data_module"):
        with pytest.raises(NotImplementedError, match=method):
            getattr(project.Test, method)(test)


def test_D_03_another_engine_may_train(tmp_path: Path) -> None:
    """Train and Test ask an engine for what it kept, and measure the model themselves."""

    class Plain:
        """Fits by plain PyTorch."""

        checkpoint_callback = None

        def fit(self, model: Any, holder: Any) -> None:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for inputs, targets in holder.train_dataloader():
                torch.nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()

        def test(self, model: Any, holder: Any) -> None:
            pass

    class PlainTrain(project.Train):
        def execute(self) -> None:
            self.trainer = Plain()
            self.trainer.fit(self.model, self.data_module)

    class PlainTest(TinyTest):
        def trainer_setup(self) -> None:
            self.trainer = Plain()

    class Other(Main):
        train_class, test_class = PlainTrain, PlainTest

    settings = config(model_config={"save_last_model": True})
    main = Other(cfg=settings, force_save_path=tmp_path)
    assert main.execute_trainer() == tmp_path / "v1" / "model.pt"
    results = main.execute_test()
    assert results["accuracy"] > 0.4
    main.test_class = TinyTest
    assert main.execute_test() == results
    assert json.loads((tmp_path / "v1" / "val_report.json").read_text())["samples"] == 18


class Stop(TrainerCallback):
    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.progress.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_was_stopped_goes_on_in_its_folder(tmp_path: Path, trained: Main) -> None:
    stopped = Main(cfg=config(trainer_config={"callbacks": [Stop()]}), force_save_path=tmp_path)
    with pytest.raises(RunInterrupted):
        stopped.execute_trainer()
    resumed = Main(cfg=config(), force_save_path=tmp_path)
    best = resumed.execute_trainer(resume=True)
    assert resumed.save_path == tmp_path / "v1"
    assert best is not None
    weights = [load_export(path)["model_state_dict"] for path in (best, trained.best)]  # type: ignore[attr-defined]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    again = Main(cfg=config(), force_save_path=tmp_path)
    again.execute_trainer(resume=True)
    assert again.save_path == tmp_path / "v2"


def test_the_random_state_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    Main(cfg=config(), force_save_path=tmp_path).execute_trainer()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (lambda: 0, 0),
        (lambda: 3, 3),
        (RunInterrupted("SIGTERM", Path("x")), 75),
        (KeyboardInterrupt("saved"), 130),
        (ValueError("wrong"), 1),
    ],
)
def test_D_71_main_exits_with_a_code(
    ends: Any, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def main() -> int:
        if isinstance(ends, BaseException):
            raise ends
        return int(ends())

    with pytest.raises(SystemExit) as ended:
        project.run(main)
    assert ended.value.code == code
    assert ("Traceback" in caplog.text) == (code == 1)


def sealed(folder: Path, **more: Any) -> Main:
    return Main(cfg=config(dataset_config={"seal_test_set": True}), force_save_path=folder, **more)


def test_a_sealed_test_set_counts_its_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = sealed(tmp_path)
    main.execute_trainer()
    main.execute_test()
    assert "evaluation 1." in capsys.readouterr().out
    main.execute_test()
    assert "evaluation 2 (the first was of v1/epoch=" in capsys.readouterr().out
    report = json.loads((tmp_path / "v1" / "test_report.json").read_text())
    assert "evaluation 2" in report["sealed_test_set"]
    record = json.loads(Path(str(main.test_dataset_path)).with_suffix(".seal.json").read_text())
    assert [each["metrics"].keys() for each in record["evaluations"]] == [
        {"accuracy", "f1", "confusion_matrix"}
    ] * 2


def test_the_count_follows_the_test_set_whatever_is_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sample less to train on is no new test set."""

    class Fewer(TinyPreparation):
        def split(self, num_samples: int) -> dict[str, np.ndarray]:
            parts = super().split(num_samples)
            return parts | {"train": parts["train"][1:]}

    class WithFewer(Main):
        preparation_class = Fewer

    settings = config(dataset_config={"seal_test_set": True})
    for main in (
        Main(cfg=settings, force_save_path=tmp_path),
        WithFewer(cfg=settings, force_save_path=tmp_path),
    ):
        main.execute_trainer()
        main.execute_test()
    assert "evaluation 2 (the first was of v1/epoch=" in capsys.readouterr().out


def test_a_model_of_unknown_training_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = sealed(tmp_path / "runs")
    model = main.execute_trainer()
    assert model is not None
    foreign = shutil.copy(model, tmp_path / "foreign.pt")
    main.execute_test(foreign)
    assert "was trained on is not known" in capsys.readouterr().out


@pytest.mark.parametrize("part", [0, 1])
def test_a_run_refuses_to_train_on_sealed_samples(tmp_path: Path, part: int) -> None:
    features, labels = points(60)
    cut = [slice(0, 30), slice(30, 45), slice(45, 60)]
    parts = [features[rows].copy() for rows in cut]
    parts[part][:2] = parts[2][:2]
    parts[part][2] = parts[2][2] * 1.001
    paths = [
        project.write_samples(tmp_path / f"{name}.npz", values, labels[rows])
        for name, values, rows in zip("abc", parts, cut, strict=True)
    ]
    main = sealed(
        tmp_path / "runs",
        training_path=paths[0],
        validation_path=paths[1],
        test_dataset_path=paths[2],
    )
    with pytest.raises(SealedTestSetError, match=r"2 exact \(row 0 is row 0.*, 1 near \(row 2 is"):
        main.execute_trainer()
    assert not (tmp_path / "runs").exists()


def test_a_model_that_was_trained_on_samples_sealed_later_is_refused(tmp_path: Path) -> None:
    features, labels = points(60)
    path = project.write_samples(tmp_path / "a.npz", features, labels)
    first = Main(config(), training_path=path, validation_path=path, force_save_path=tmp_path)
    best = first.execute_trainer()
    test = project.write_samples(tmp_path / "test.npz", features[:9], labels[:9])
    later = sealed(tmp_path, test_dataset_path=test)
    with pytest.raises(SealedTestSetError, match="9 exact"):
        later.execute_test(model_path=best)


def test_a_test_set_that_is_not_kept_cannot_be_sealed(tmp_path: Path) -> None:
    settings = config(dataset_config={"seal_test_set": True, "save_dataset": False})
    with pytest.raises(ConfigurationError, match="seal_test_set, and save_dataset is False"):
        Main(cfg=settings, force_save_path=tmp_path)


def test_a_sealed_test_set_may_not_change(tmp_path: Path) -> None:
    main = sealed(tmp_path)
    main.execute_trainer()
    features, labels = points(12)
    project.write_samples(main.test_dataset_path or "", features + 1, labels)
    with pytest.raises(SealedTestSetError, match="seals 12 samples with the hash"):
        main.execute_test()


def test_the_targets_of_a_sealed_test_set_may_not_change(tmp_path: Path) -> None:
    main = sealed(tmp_path)
    main.execute_trainer()
    features, labels = project.read_samples(main.test_dataset_path or "")
    project.write_samples(main.test_dataset_path or "", np.array(features), (labels + 1) % 3)
    with pytest.raises(SealedTestSetError, match="seals 12 samples with the hash"):
        main.execute_test()


def test_a_folder_of_runs_that_was_moved_is_tested_and_sealed(tmp_path: Path) -> None:
    sealed(tmp_path / "here").execute_trainer()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = sealed(tmp_path / "there")
    results = moved.execute_test()
    assert results["accuracy"] > 0.4
    assert moved.test_dataset_path is not None
    assert Path(moved.test_dataset_path).is_relative_to(tmp_path / "there")
    record = (tmp_path / "there" / "v1" / "project.json").read_text()
    assert str(tmp_path) not in record


def copied_away(run: Path | None, folder: Path) -> Path:
    """Copy a run alone to a folder, and return the copy's model."""
    assert run is not None
    shutil.copytree(run, folder / run.name)
    return next((folder / run.name).glob("epoch=*.pt"))


OTHER_RATIOS = {"train_ratio": 0.55, "validation_ratio": 0.15, "test_ratio": 0.3}


@pytest.mark.parametrize("seals", [True, False])
def test_a_run_that_was_copied_alone_is_tested_on_its_own_test_set(
    tmp_path: Path, seals: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the data are divided otherwise now, which puts training samples into the test set."""
    settings = {"seal_test_set": seals}
    main = Main(cfg=config(dataset_config=settings), force_save_path=tmp_path / "runs")
    main.execute_trainer()
    expected = main.execute_test()
    model = copied_away(main.save_path, tmp_path / "kept")
    later = config(dataset_config={**settings, **OTHER_RATIOS})
    again = Main(cfg=later, force_save_path=tmp_path / "runs")
    assert again.execute_test(model) == expected
    assert again.test_dataset_path == main.test_dataset_path
    assert ("evaluation 2 " in capsys.readouterr().out) == seals


@pytest.mark.parametrize("seals", [True, False])
def test_a_run_without_its_data_is_refused_until_they_are_there(
    tmp_path: Path, seals: bool
) -> None:
    main = Main(
        cfg=config(dataset_config={"seal_test_set": seals}), force_save_path=tmp_path / "runs"
    )
    main.execute_trainer()
    expected = main.execute_test()
    model = copied_away(main.save_path, tmp_path / "kept")
    later = config(dataset_config={"seal_test_set": seals, **OTHER_RATIOS})
    again = Main(cfg=later, force_save_path=tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"v1 was made with test-.*unpack dataset\.zip"):
        again.execute_test(model)
    with zipfile.ZipFile(model.parent / "dataset.zip") as archive:
        archive.extractall(model.parent)
    assert again.execute_test(model) == expected
    assert again.test_dataset_path == model.parent / "test_dataset.npz"


def test_a_run_that_did_not_keep_its_data_is_tested_on_what_is_divided_alike(
    tmp_path: Path,
) -> None:
    settings = {"save_dataset": False}
    best = Main(cfg=config(dataset_config=settings), force_save_path=tmp_path).execute_trainer()
    results = Main(cfg=config(dataset_config=settings), force_save_path=tmp_path).execute_test(best)
    assert results["accuracy"] > 0.4
    other = Main(cfg=config(dataset_config={**settings, **OTHER_RATIOS}), force_save_path=tmp_path)
    with pytest.raises(ConfigurationError, match="v1 was made with .*test_dataset.npz"):
        other.execute_test(best)


def test_a_model_is_refused_whose_training_data_changed_since(tmp_path: Path) -> None:
    """What it was trained on can then no longer be compared with the test set."""
    main = sealed(tmp_path)
    main.execute_trainer()
    features, labels = project.read_samples(main.training_path or "")
    project.write_samples(main.training_path or "", np.array(features) + 9, labels)
    with pytest.raises(SealedTestSetError, match=r"train_dataset\.npz has changed since .*v1 was"):
        main.execute_test()


def test_D_36_the_best_model_is_exported(tmp_path: Path) -> None:
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    settings = config(
        model_config={"save_checkpoint_as_onnx": True, "save_checkpoint_as_pt2": True}
    )
    main = Main(cfg=settings, force_save_path=tmp_path)
    best = main.execute_trainer()
    model = module()
    project.load_weights(model, best or "")
    inputs = torch.from_numpy(points(7)[0])
    with torch.no_grad():
        expected = model(inputs)
    found = reference.ReferenceEvaluator(str(tmp_path / "v1" / "best.onnx"))
    outputs = found.run(None, {"inputs": inputs.numpy()})[0]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    program = torch.export.load(tmp_path / "v1" / "best.pt2")
    assert torch.allclose(program.module()(inputs), expected, atol=1e-6)


def test_an_export_that_gives_something_else_is_not_kept(tmp_path: Path) -> None:
    class Counts(torch.nn.Module):
        """Gives another value in each call, which an exported program does not."""

        calls = 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return inputs + self.calls

    with pytest.raises(project.ExportError, match="does not give what the model gives"):
        project.export_pt2(Counts(), torch.zeros(2, 3), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []
