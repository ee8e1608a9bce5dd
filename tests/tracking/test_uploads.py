"""Experiments of TrainLoops with a copy in a cloud: whole, verified, and never waited for."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loops import loader, make_loop, state_of
from storage.test_mirror import QUICK, files_in
from storage.wires import Wire, wire
from tiny import same

from loopwright import TrainLoopCheckpoint, TrainLoopCheckpointEndSave
from loopwright.errors import MissingExtraError, StorageError
from loopwright.loop_callbacks import (
    LogUpload,
    ModelLoadContinueTraining,
    ModelTrainHistoryFileWriter,
)
from loopwright.results import GeneralResultPackage
from loopwright.results.basic_metrics import AccuracyMetric
from loopwright.seed import set_seed
from loopwright.storage import Mirror, fetch, open_storage
from loopwright.tracking import (
    BaseDataLoader,
    BaseDataSaver,
    CloudModelLoader,
    ExperimentUploader,
    PyTorchLocalModelSaver,
    data_access,
    finish_uploads,
    make_model_loader,
    make_uploader,
    uploads,
)
from loopwright.tracking.uploads import cloud_url
from tracking.models import content

pytest.importorskip("matplotlib")
__all__ = ["wire"]

URL = "wire://bucket"
BACK = "experiment_{}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let attempts follow at once, and the end of a fit wait for two seconds at most."""
    monkeypatch.setattr(uploads, "Mirror", lambda *a, **k: Mirror(*a, backoff=QUICK, **k))
    monkeypatch.setattr(uploads, "WAIT_SECONDS", 2.0)
    yield
    for mirror in list(uploads._mirrors.values()):
        mirror.wait(10)


def make(folder: Path, name: str, cls: Any = TrainLoopCheckpoint, **options: Any) -> Any:
    """Return a loop with a copy at the URL, under a time of its own."""
    set_seed(5)
    loop = make_loop(
        cls,
        "project",
        "experiment",
        folder,
        {"lr": 0.05},
        test=loader(5),
        cloud_save_mode=URL,
        cloud_dir_prefix="/team/",
        **options,
    )
    loop.experiment_timestamp = name
    return loop


def at(name: str) -> str:
    return f"{URL}/team/project/experiment_{name}"


def here(folder: Path, name: str) -> Path:
    return folder / "project" / f"experiment_{name}"


def check_copy(tmp_path: Path, name: str, folder: Path | None = None) -> list[str]:
    """Compare what can be fetched with the folder, and return its names."""
    got = files_in(fetch(at(name), tmp_path / f"got-{name}"))
    assert got == files_in(here(folder or tmp_path, name))
    return sorted(got)


@pytest.mark.parametrize(
    ("mode", "url"),
    [
        *((mode, "s3://cloud_results/a/b") for mode in ("s3", "aws_s3", "aws")),
        *((mode, "gs://cloud_results/a/b") for mode in ("gcs", "google_storage", "google storage")),
        ("az://container/x/", "az://container/x/a/b"),
        *((mode, None) for mode in (None, "local", "")),
    ],
)
def test_modes(mode: str | None, url: str | None) -> None:
    """A-18, A-24: two clouds under three names each, any URL, and the disk for all else."""
    assert cloud_url(mode, "cloud_results", "a/b") == url
    assert cloud_url("s3", "bucket", "") == "s3://bucket"


def test_a_cloud_that_was_probably_meant_is_named() -> None:
    with pytest.warns(UserWarning, match="'S3', so files stay on the disk; .* give 's3'"):
        assert cloud_url("S3", "cloud_results", "") is None


def test_several_copies_share_one_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a server is silent, a second copy does not begin to wait anew."""
    waits: list[float] = []

    def wait(mirror: Mirror, seconds: float) -> bool:
        waits.append(seconds)
        clock[0] += seconds
        return False

    clock = [0.0]
    mirrors = [Mirror((tmp_path / "there" / n).as_uri(), tmp_path / n) for n in ("a", "b")]
    monkeypatch.setattr(uploads, "_mirrors", dict(enumerate(mirrors)))
    monkeypatch.setattr(Mirror, "wait", wait)
    monkeypatch.setattr(uploads.time, "monotonic", lambda: clock[0])
    finish_uploads(lambda line: None, is_stopping=True)
    assert waits == [15.0, 0.0]


def test_what_cannot_be_a_place_is_refused_when_the_loop_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bucket_name is ''; give"):
        make_uploader("s3", "", "", tmp_path)
    with pytest.raises((MissingExtraError, ValueError), match="nowhere://x cannot be used"):
        ExperimentUploader("nowhere://x", tmp_path)


def test_a_whole_experiment_is_copied(wire: type[Wire], tmp_path: Path) -> None:
    """A-13: models, results, plots, histories, hyperparameters and a log from elsewhere."""
    log = tmp_path / "training.log"
    log.write_text("line 1\n")
    loop = make(
        tmp_path,
        "whole",
        TrainLoopCheckpointEndSave,
        val_result_package=GeneralResultPackage([AccuracyMetric]),
    )
    callbacks = [ModelTrainHistoryFileWriter(), LogUpload(str(log))]
    loop.fit(2, callbacks=callbacks)
    names = check_copy(tmp_path, "whole")
    stem = "experiment_whole"
    assert {
        "hyperparams_list.txt",
        "training.log",
        f"model/model_{stem}.pth",
        f"results/results_hyperParams_hist_{stem}.json",
        *(f"checkpoint_model/model_{stem}_E{epoch}.pth" for epoch in range(2)),
    } <= set(names)
    sent = [name for what, name in wire.asked if what == "put" and name.endswith(".pth")]
    assert len(sent) == len(set(sent)) == 3  # by one thread for all callbacks


def test_models_that_retention_removed_stay_in_the_copy(wire: type[Wire], tmp_path: Path) -> None:
    """A-69 holds on the disk."""
    loop = make(tmp_path, "kept", rm_subopt_local_models=True, num_best_checkpoints_kept=1)
    fit_and_let_arrive(loop, 3)
    assert len(list(here(tmp_path, "kept").glob("*/*.pth"))) == 1
    assert len(open_storage(at("kept")).list("checkpoint_model")) == 3


def fit_and_let_arrive(loop: Any, num_epochs: int) -> None:
    """Train epoch by epoch, and wait after each until the copy is complete."""
    for epoch in range(1, num_epochs + 1):
        loop.fit(epoch)
        finish_uploads()


def test_training_does_not_wait_for_a_slow_server(wire: type[Wire], tmp_path: Path) -> None:
    """Each transfer stands still until all is trained; the remote copy ends whole."""
    trained = threading.Event()

    def stall(what: str, name: str) -> None:
        if what == "put" and name.endswith(".pth"):
            trained.wait(20)

    class Done(LogUpload):
        def on_train_end(self) -> None:
            assert len(list(here(tmp_path, "slow").glob("*/*.pth"))) == 3
            assert not [name for what, name in wire.asked if name.endswith(".pth")]
            trained.set()

    wire.on_call = stall
    loop = make(tmp_path, "slow")
    loop.fit(3, callbacks=[Done(str(tmp_path / "none.log"))])
    check_copy(tmp_path, "slow")


def test_an_outage_is_waited_out(
    wire: type[Wire], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The losses are those of a loop without a copy, and one line tells of each end of it."""
    set_seed(5)
    plain = make_loop(test=loader(5))
    plain.fit(3)
    num_failures = 0

    def down(what: str, name: str) -> None:
        nonlocal num_failures
        if name.endswith("_E1.pth") and num_failures < 20:
            num_failures += 1
            raise ConnectionRefusedError("refused")

    wire.on_call = down
    loop = make(tmp_path, "out")
    loop.fit(3)
    assert num_failures == 20
    assert loop.train_history.train_history == plain.train_history.train_history
    told = capsys.readouterr().out
    assert told.count("the run goes on and the copy is caught up later") == 1
    assert told.count("is complete again") == 1
    check_copy(tmp_path, "out")


def test_what_did_not_arrive_is_told_and_sent_when_the_run_goes_on(
    wire: type[Wire], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """A-77: the copy of the first part is completed by the process that goes on."""
    monkeypatch.setattr(uploads, "WAIT_SECONDS", 0.05)

    def down(what: str, name: str) -> None:
        if name.endswith("_E1.pth"):
            raise ConnectionRefusedError("refused")

    wire.on_call = down
    first = make(tmp_path, "first")
    first.fit(2)
    folder = here(tmp_path, "first")
    told = capsys.readouterr().out
    assert "are not at wire://bucket/team/project/experiment_first yet" in told
    assert f"loopwright push {folder}" in told
    assert len(list(folder.glob("*/*.pth"))) == 2
    abandon(wire)
    monkeypatch.setattr(uploads, "WAIT_SECONDS", 5.0)
    make(tmp_path, "second").fit(3, callbacks=[ModelLoadContinueTraining("first")])
    check_copy(tmp_path, "first")
    check_copy(tmp_path, "second")


def abandon(wire: type[Wire]) -> None:
    """Leave off sending, as the end of the process does, and let the server answer again."""
    for mirror in list(uploads._mirrors.values()):
        sender = mirror._thread
        if sender is not None:
            mirror._refusal = RuntimeError("the process ended")
            sender.join(5)
    uploads._mirrors.clear()
    wire.on_call = None


def test_a_bucket_that_is_not_there_is_told_before_training(
    wire: type[Wire], tmp_path: Path
) -> None:
    def deny(what: str, name: str) -> None:
        raise PermissionError("no such key")

    wire.on_call = deny
    loop = make(tmp_path, "denied")
    with pytest.raises(StorageError, match=r"experiment_denied cannot be used: .*no such key"):
        loop.fit(1)
    assert (here(tmp_path, "denied") / "hyperparams_list.txt").exists()
    wire.on_call = None
    again = make(tmp_path, "denied")
    again.fit(1)
    check_copy(tmp_path, "denied")


def test_a_run_goes_on_on_another_machine(wire: type[Wire], tmp_path: Path) -> None:
    """A-76, A-77: the checkpoint comes from the copy, verified; an older one on the disk loses."""
    set_seed(5)
    whole = make_loop(test=loader(5))
    whole.fit(4)
    first = make(tmp_path / "1", "first")
    first.fit(2)
    finish_uploads()
    folder = here(tmp_path / "2", "first") / "checkpoint_model"
    folder.mkdir(parents=True)
    old = here(tmp_path / "1", "first") / "checkpoint_model" / "model_experiment_first_E0.pth"
    (folder / old.name).write_bytes(old.read_bytes())
    loop = make(tmp_path / "2", "second")
    set_seed(99)
    loop.fit(4, callbacks=[ModelLoadContinueTraining("first")])
    assert same(state_of(whole), state_of(loop))
    assert loop.train_history.train_history == whole.train_history.train_history
    check_copy(tmp_path, "second", tmp_path / "2")


def test_models_are_loaded_from_the_disk_first(
    wire: type[Wire], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uploader = ExperimentUploader(URL, tmp_path / "1", waits=True)
    saver = PyTorchLocalModelSaver(tmp_path / "1", checkpoint_model=True, uploader=uploader)
    for epoch in range(2):
        saver.save_model(content(epoch=epoch), "p", "e", "T", epoch=epoch)
    loading = make_model_loader(URL, None, None, tmp_path / "2")
    assert isinstance(loading, CloudModelLoader)
    assert loading.load_model("p", "e", "T", epoch_num=0)["epoch"] == 0
    num_asked = len(wire.asked)
    wire.on_call = lambda what, name: pytest.fail("was asked")
    assert loading.load_model("p", "e", "T", epoch_num=0)["epoch"] == 0
    assert len(wire.asked) == num_asked

    def down(what: str, name: str) -> None:
        raise PermissionError("gone")

    wire.on_call = down
    assert loading.load_model("p", "e", "T")["epoch"] == 0  # the newest that can be had
    assert "checkpoint_model alone: wire://bucket/p/e_T cannot be read" in capsys.readouterr().out
    with pytest.raises(StorageError, match="gone"):
        make_model_loader(URL, None, None, tmp_path / "3").load_model("p", "e", "T")
    wire.on_call = None
    assert loading.load_model("p", "e", "T")["epoch"] == 1
    with pytest.raises(FileNotFoundError) as caught:
        loading.load_model("p", "e", "T", epoch_num=7)
    assert caught.value.__notes__ == ["There is none at wire://bucket either."]
    wire.store["/bucket/p/e_T/checkpoint_model/model_e_T_E1.pth"].write(b"spoilt")
    with pytest.raises(StorageError, match=r"_E1\.pth is damaged"):
        make_model_loader(URL, None, None, tmp_path / "4").load_model("p", "e", "T")


def test_savers_that_wait_return_when_the_files_are_there(wire: type[Wire], tmp_path: Path) -> None:
    wire.on_call = lambda what, name: time.sleep(0.01)
    saver = PyTorchLocalModelSaver(
        tmp_path, uploader=make_uploader(URL, None, "x", tmp_path, waits=True)
    )
    _, path = saver.save_model(content(), "p", "e", "T")
    stored = wire.store["/bucket/x/p/e_T/model/model_e_T.pth"].getvalue()
    assert stored == Path(path).read_bytes()


def test_no_secret_of_a_url_is_written(wire: type[Wire], tmp_path: Path) -> None:
    url = "wire://me:hunter22@bucket"
    saver = PyTorchLocalModelSaver(
        tmp_path, uploader=make_uploader(url, None, None, tmp_path, waits=True)
    )
    saver.save_model(content(), "p", "e", "T")
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    texts += [file.getvalue() for file in wire.store.values()]
    assert texts
    assert not [text for text in texts if b"hunter22" in text]
    with pytest.raises(FileNotFoundError) as caught:
        make_model_loader(url, None, None, tmp_path).load_model("p", "e", "T", epoch_num=7)
    assert caught.value.__notes__ == ["There is none at wire://me:***@bucket either."]


def test_files_and_folders_of_data(
    wire: type[Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_access, "cloud_url", lambda cloud, bucket, _: f"wire://{bucket}")
    (tmp_path / "from" / "below").mkdir(parents=True)
    (tmp_path / "from" / "a.txt").write_text("a")
    (tmp_path / "from" / "below" / "b.txt").write_text("b")
    saver = BaseDataSaver("bucket")
    saver.save_folder(tmp_path / "from", "folder")
    saver.save_folder(tmp_path / "from", "")
    saver.save_file(tmp_path / "from" / "a.txt", "alone.txt")
    names = ["a.txt", "alone.txt", "below/b.txt", "folder/a.txt", "folder/below/b.txt"]
    assert list(open_storage(URL).list()) == names
    loading = BaseDataLoader("bucket", tmp_path / "to")
    assert not loading.exists_local_data_folder("data")
    assert loading.exists_local_data_folder("data")
    place = tmp_path / "to" / "data" / "b.txt"
    loading.load_file("folder/below/b.txt", place)
    assert place.read_text() == "b"
    place.write_text("mine")
    loading.load_file("folder/below/b.txt", place)
    assert place.read_text() == "mine"
    with pytest.raises(FileNotFoundError):
        loading.load_file("none", tmp_path / "to" / "none")
    assert not loading.exists_local_data_folder("data", protect_local_folder=False)
    assert not place.exists()
    for elsewhere in ("", "..", "data/../..", str(tmp_path / "from")):
        with pytest.raises(ValueError, match=r"data_folder_name is .*would be removed"):
            loading.exists_local_data_folder(elsewhere, protect_local_folder=False)
    assert (tmp_path / "from" / "a.txt").exists()
    with pytest.raises(NotADirectoryError, match=r"form'; expected a folder"):
        saver.save_folder(tmp_path / "form", "folder")
    loading.available_prepocessed_datasets.append("squad")
    assert loading.preproc_dataset_available("squad")
