"""The bases of a TrainLoop's callbacks, their messages, and the history that they read."""

from types import SimpleNamespace

import pytest
from loops import Recorder, make_loop

from loopwright.loop_callbacks import (
    AbstractCallback,
    AbstractExperimentCallback,
    MessageHandling,
    MessageService,
)
from loopwright.tracking import TrainingHistory

FOREVER, EPOCH, READ, OVERWRITE = (
    MessageHandling.KEEP_FOREVER,
    MessageHandling.UNTIL_END_OF_EPOCH,
    MessageHandling.UNTIL_READ,
    MessageHandling.OVERWRITE,
)


def test_messages_live_as_long_as_they_say() -> None:
    """A-103."""
    service = MessageService()
    service.write_message("key", 1)
    service.write_message("key", 2, FOREVER)
    service.write_message("key", 3, [READ])
    assert service.read_messages("key") == [1, 2, 3]
    assert service.read_messages("key") == [1, 2]
    service.end_of_epoch_trigger()
    assert service.read_messages("key") == [2]
    assert service.read_messages("other") is None


def test_one_message_takes_the_place_of_others() -> None:
    """A-103: OVERWRITE alone stays; with another setting it goes when that says."""
    service = MessageService()
    service.write_message("key", 1, FOREVER)
    service.write_message("key", 2, OVERWRITE)
    service.end_of_epoch_trigger()
    assert service.read_messages("key") == [2]
    service.write_message("key", 3, [OVERWRITE, EPOCH])
    assert service.read_messages("key") == [3]
    service.end_of_epoch_trigger()
    assert service.read_messages("key") is None


def test_only_overwriting_combines() -> None:
    """A-103."""
    service = MessageService()
    with pytest.raises(ValueError, match="only OVERWRITE combines"):
        service.write_message("key", 1, [READ, EPOCH])
    with pytest.raises(TypeError, match="expected a MessageHandling"):
        service.write_message("key", 1, "until_read")  # type: ignore[arg-type]
    assert service.read_messages("key") is None


def test_the_loop_ends_the_epoch_of_messages() -> None:
    """A-94, A-103: after the callbacks of the epoch's end."""
    seen = []

    class Talks(AbstractCallback):
        def on_batch_end(self) -> None:
            assert self.message_service is not None
            self.message_service.write_message("batches", self.train_loop_obj.iteration)

        def on_epoch_end(self) -> None:
            assert self.message_service is not None
            seen.append(self.message_service.read_messages("batches"))

    loop = make_loop(val=None)
    loop.fit(2, callbacks=[Talks("talks")])
    assert seen == [[0, 1, 2, 3]] * 2
    assert loop.message_service.read_messages("batches") is None


def test_a_callback_keeps_its_arguments() -> None:
    """A-92."""
    callback = AbstractCallback("name", 3, 1)
    assert (callback.callback_name, callback.execution_order) == ("name", 3)
    assert callback.device_idx_execution == 1


def test_experiment_details_come_from_the_loop() -> None:
    """A-102: what is given to the callback stays."""
    given = {"project_name": "p", "experiment_name": "e", "local_model_result_folder_path": "/f"}
    cloud = {"cloud_save_mode": "s3", "bucket_name": "b", "cloud_dir_prefix": "d"}
    callback = AbstractExperimentCallback("writes", experiment_name="mine")
    callback.train_loop_obj = SimpleNamespace(**given, **cloud)
    callback.try_infer_experiment_details(infer_cloud_details=True)
    assert {name: getattr(callback, name) for name in (*given, *cloud)} == {
        **given,
        **cloud,
        "experiment_name": "mine",
    }
    local = AbstractExperimentCallback("writes", cloud_save_mode="local")
    local.train_loop_obj = callback.train_loop_obj
    local.try_infer_experiment_details(infer_cloud_details=True)
    assert (local.cloud_save_mode, local.bucket_name) == ("local", None)


def test_a_plain_loop_has_no_experiment_details() -> None:
    """A-102."""
    callback = AbstractExperimentCallback("writes", experiment_name="mine")
    callback.train_loop_obj = make_loop()
    message = "needs project_name, local_model_result_folder_path, which a TrainLoop does not have"
    with pytest.raises(AttributeError, match=message):
        callback.try_infer_experiment_details(infer_cloud_details=False)
    full = AbstractExperimentCallback("writes", "p", "e", "~/f")
    full.train_loop_obj = make_loop()
    full.try_infer_experiment_details(infer_cloud_details=False)
    assert not (full.local_model_result_folder_path or "~").startswith("~")


def test_a_history_is_a_dict_of_lists() -> None:
    """A-90."""
    history = TrainingHistory(has_validation=False)
    history["loss"] = 2.0
    history["loss"] = 1.0
    history["accuracy"] = 0.5
    assert history["loss"] == [2.0, 1.0]
    assert ("accuracy" in history, "other" in history, len(history)) == (True, False, 3)
    assert list(history) == list(history.keys()) == ["loss", "accumulated_loss", "accuracy"]
    assert dict(history.items()) == history.get_train_history()
    assert str(history) == str(history.get_train_history())


def test_histories_add() -> None:
    """A-91."""
    history = TrainingHistory()
    more = history + {"val_loss": 3.0}
    assert (more["val_loss"], history["val_loss"]) == ([3.0], [])
    history += {"val_loss": 4.0}
    assert history["val_loss"] == [4.0]
    with pytest.raises(TypeError, match="A list was added to a training history"):
        history += [1.0]  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a dict"):
        history + 3  # type: ignore[operator]


def test_a_history_says_what_is_doubtful(capsys: pytest.CaptureFixture[str]) -> None:
    strict = TrainingHistory(strict_content_check=True)
    with pytest.raises(ValueError, match="history is empty"):
        strict.get_train_history_dict()
    strict["loss"] = 1.0
    with pytest.raises(ValueError, match="accumulated_loss has 0 values .* not 1"):
        strict.qa_check_history_records()
    TrainingHistory().get_train_history_dict()
    assert "history is empty" in capsys.readouterr().out


def test_a_history_can_be_flattened() -> None:
    history = TrainingHistory().wrap_pre_prepared_history({"loss": [1.0]})
    history["scores"] = {"a": 1, "b": {"c": 2}}
    assert history.get_train_history_dict(flatten_dict=True) == {
        "loss": [1.0],
        "scores_a": [1],
        "scores_b_c": [2],
    }


def test_a_handler_calls_each_moment_by_its_name() -> None:
    """A-93: for who drives the callbacks without `fit`."""
    loop, recorder = make_loop(), Recorder()
    handler = loop.callbacks_handler
    handler.register_callbacks([recorder])
    handler.execute_train_begin()
    handler.execute_epoch_begin()
    handler.execute_batch_begin()
    handler.execute_gradient_update(1)
    handler.execute_optimizer_step()
    handler.execute_batch_end()
    handler.execute_epoch_end()
    handler.execute_train_end()
    moments = "registration, train begin, epoch begin, batch begin, gradient 1, step, batch end"
    assert recorder.names == [*moments.split(", "), "epoch end", "train end"]
