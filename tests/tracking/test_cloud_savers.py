"""Savers named after clouds hand their files to the uploader of that cloud (A-13, A-24)."""

from pathlib import Path
from typing import Any

import pytest

from loopwright import tracking
from loopwright.results import PreCalculatedResultPackage
from loopwright.tracking import TrainingHistory, cloud_savers
from tracking.models import Uploads, content


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Uploads:
    """Takes the place of a cloud, and keeps for which one it was asked."""
    found = Uploads()

    def make(*where: Any, waits: bool) -> Uploads:
        assert waits
        found.where = where
        return found

    monkeypatch.setattr(cloud_savers, "make_uploader", make)
    return found


@pytest.mark.parametrize(("name", "cloud"), [("S3", "s3"), ("GoogleStorage", "gcs")])
def test_savers_of_a_cloud_upload_what_they_write(
    name: str, cloud: str, uploads: Uploads, tmp_path: Path
) -> None:
    bucket = ("bucket", "below", tmp_path)
    saver = getattr(tracking, f"PyTorch{name}ModelSaver")(*bucket, checkpoint_model=True)
    _, path = saver.save_model(content(), "p", "e", "T", epoch=0)
    assert uploads.where == (cloud, "bucket", "below", tmp_path)
    assert uploads.files == {"p/e_T/checkpoint_model/model_e_T_E0.pth": Path(path).read_bytes()}
    package = PreCalculatedResultPackage({"score": 1.0})
    results = getattr(tracking, f"{name}ResultsSaver")(*bucket)
    results.save_experiment_results(package, TrainingHistory(), "p", "e", "T")
    assert "p/e_T/results/results_hyperParams_hist_e_T.json" in uploads.files
    whole = getattr(tracking, f"FullPyTorchExperiment{name}Saver")("p", "e", *bucket)
    whole.save_experiment(content(), package, TrainingHistory(), "T")
    assert "p/e_T/model/model_e_T.pth" in uploads.files
