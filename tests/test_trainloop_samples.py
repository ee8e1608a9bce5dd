"""The samples of the document run on MNIST after a change of their imports."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.servers import S3, holds_secret
from faults.test_storage import hashes
from samples import LOOPS, namespace, sample

from loopwright.seed import set_seed

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of the samples' bucket on a server of S3."""
    server = S3(tmp_path_factory.mktemp("s3"), bucket="cloud_results")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server.bucket
    server.kill()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_sample_runs_as_written(
    loop: str, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-06, A-13, A-17, A-18, A-19, A-20: ten epochs, in which the model learns; and its copy."""
    monkeypatch.chdir(tmp_path)
    set_seed(1)
    names = namespace()
    exec(sample(loop), names)
    trained, history = names["tl"], names["tl"].train_history
    assert type(trained).__name__ == loop
    assert names["model"] is trained.model
    assert len(history["val_loss"]) == 10
    predictions, targets, _ = trained.predict_on_validation_set()
    assert (predictions == targets).double().mean() > 0.85
    if loop == "TrainLoop":
        assert list(tmp_path.iterdir()) == []
        return
    project = Path("train_loop_examples")
    (experiment,) = (tmp_path / "results_dir" / project).iterdir()
    saved = sorted(path.name.split("_E")[-1] for path in experiment.glob("checkpoint_model/*"))
    assert saved == ([f"{epoch}.pth" for epoch in range(10)] if "Checkpoint" in loop else [])
    assert len(list(experiment.glob("model/*.pth"))) == ("EndSave" in loop)
    there = hashes(bucket / project / experiment.name)
    del there["checksums.json"]
    assert there == hashes(experiment)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and holds_secret(path)]
