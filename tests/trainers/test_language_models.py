"""Language models: the trainer beside a plain loop, perplexity, and going on after texts."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import global_states, same, weights
from torch import Tensor
from torch.nn.functional import cross_entropy

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.data import epoch_order
from loopwright.datasets import TextFiles
from loopwright.models import gpt
from loopwright.models.texts import draw_tokens
from loopwright.seed import set_seed
from loopwright.trainers import (
    ContinuationsCallback,
    LanguageModelInferrer,
    LanguageModelTrainer,
    perplexity,
)

DATA = Path(os.environ.get("LOOPWRIGHT_DATA", Path(__file__).parents[3] / "shared" / "data"))


def make_model(seed: int = 0, **arguments: Any) -> Any:
    options = {"width": 16, "heads": 2, "layers": 1} | arguments
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return gpt((6,), 5, **options)


def make_data(count: int = 12) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, 5, (count, 7), generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1], tokens[:, 1:]


def make_trainer(model: Any, **options: Any) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return LanguageModelTrainer(model, None, optimizer, **{"callbacks": (), "seed": 3} | options)


def plain_losses(model: Any, data: tuple[Tensor, Tensor]) -> list[float]:
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(2):
        for x, y in zip(data[0].split(4), data[1].split(4), strict=True):
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_training_is_that_of_a_plain_loop() -> None:
    """The same losses and weights, dropout's draws included."""
    plain, ours, data = make_model(dropout=0.1), make_model(dropout=0.1), make_data()
    set_seed(5)
    losses = plain_losses(plain, data)
    trainer = make_trainer(ours)
    set_seed(5)
    trainer.train(data, 2, per_device_batch_size=4, train_dataloader_kwargs={"shuffle": False})
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    found = trainer.run_history.get_metric_values("train_loss_epoch")
    assert found == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])], rel=1e-6)


def test_perplexity_is_recorded_of_tokens_that_are_no_padding() -> None:
    model, (tokens, following) = make_model(), make_data(10)
    following = following.clone()
    following[3:, 2:] = 0
    trainer = make_trainer(model, padding=0)
    trainer.train((tokens, following), 2, eval_dataset=(tokens, following))
    with torch.no_grad():
        expected = cross_entropy(model.eval()(tokens), following, ignore_index=0).item()
    history = trainer.run_history
    assert history.get_latest_metric("eval_loss_epoch") == pytest.approx(expected, rel=1e-5)
    found = history.get_metric_values("perplexity")
    assert len(found) == 2
    assert found[-1] == pytest.approx(math.exp(expected), rel=1e-5)
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e4) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_perplexity_is_that_of_the_tokens_whatever_the_loss_is() -> None:
    model, (tokens, following) = make_model(), make_data(10)
    following = following.clone()
    following[3:, 2:] = 0

    def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nats = cross_entropy(logits, targets, ignore_index=0, reduction="none")
        return ((1 - (-nats).exp()) ** 2 * nats).sum() / (targets != 0).sum()

    trainer = LanguageModelTrainer(
        model, focal, torch.optim.Adam(model.parameters()), callbacks=(), padding=0
    )
    data = (tokens, following)
    trainer.train(data, 2, per_device_batch_size=4, eval_dataset=data)
    with torch.no_grad():
        expected = cross_entropy(model.eval()(tokens), following, ignore_index=0).item()
    found = trainer.run_history.get_metric_values("perplexity")
    assert len(found) == 2
    assert found[-1] == pytest.approx(math.exp(expected), rel=1e-5)


def test_what_is_no_token_is_refused_or_named() -> None:
    """Left out of the loss but not of its weight, it would make accumulation another update."""
    tokens, following = make_data(4)
    following = following.clone()
    following[0, 1:] = -100
    with pytest.raises(IndexError, match="Target -100 is out of bounds"):
        make_trainer(make_model()).train((tokens, following), 1)
    trained = []
    for size in (4, 1):
        model = make_model().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        trainer = LanguageModelTrainer(model, None, optimizer, callbacks=(), seed=3, padding=-100)
        options = {"per_device_batch_size": size, "gradient_accumulation_steps": 4 // size}
        trainer.train((tokens, following), 1, **options)  # type: ignore[arg-type]
        trained.append(weights(trainer))
    torch.testing.assert_close(*trained, rtol=1e-12, atol=1e-12)


def test_an_own_loss_gets_logits_and_tokens() -> None:
    model, data = make_model(), make_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = LanguageModelTrainer(model, lambda x, y: y.float().mean(), optimizer, callbacks=())
    trainer.evaluate(data, per_device_batch_size=12)
    found = trainer.run_history.get_latest_metric("evaluation_loss")
    assert found == pytest.approx(data[1].float().mean().item())


@pytest.mark.parametrize("padding", [None, 0])
def test_a_run_goes_on_exactly(tmp_path: Path, padding: int | None) -> None:
    """From a checkpoint inside an epoch, with dropout, accumulation and clipping."""
    settings = {"per_device_batch_size": 2, "gradient_accumulation_steps": 2}
    settings["gradient_clip_norm"] = 1.0
    folder = {"run_dir": tmp_path / "whole", "checkpoint": CheckpointPolicy(every_steps=2)}
    whole = make_trainer(make_model(dropout=0.2), padding=padding, **folder)
    set_seed(5)
    whole.train(make_data(), 3, **settings)
    paths = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    inside = next(path for path in paths if path.name.startswith("step-"))
    resumed = make_trainer(make_model(seed=9, dropout=0.2), padding=padding)
    set_seed(6)
    resumed.train(make_data(), 3, **settings, resume=inside)
    assert same(weights(whole), weights(resumed))


def test_drawing_tokens() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0]).expand(4000, 4)
    generator = torch.Generator().manual_seed(0)
    counts = draw_tokens(logits, 0.5, generator=generator).bincount(minlength=4) / 4000
    torch.testing.assert_close(counts, (logits[0] / 0.5).softmax(0), atol=0.02, rtol=0)
    kept = draw_tokens(logits, 2.0, 2, generator).bincount(minlength=4)
    assert kept[[1, 3]].sum() == 0
    expected = (torch.tensor([2.0, 1.0]) / 2).softmax(0)
    torch.testing.assert_close(kept[[0, 2]] / 4000, expected, atol=0.03, rtol=0)
    assert set(draw_tokens(logits, 0.0).tolist()) == {0}
    assert set(draw_tokens(logits, top_k=1).tolist()) == {0}
    assert draw_tokens(logits, top_k=9, generator=generator).unique().numel() == 4
    for arguments in ({"temperature": -1.0}, {"top_k": 0}):
        with pytest.raises(ValueError, match="temperature is .* and top_k"):
            draw_tokens(logits, **arguments)


def test_going_on_after_a_text() -> None:
    model = make_model()
    inferrer = LanguageModelInferrer(model, characters="abcde")
    before = global_states()
    text = inferrer.generate("abcab", 20, seed=1)
    assert len(text) == 20
    assert set(text) <= set("abcde")
    assert text == inferrer.generate("abcab", 20, seed=1) != inferrer.generate("abcab", 20, seed=2)
    tokens = torch.tensor([[0, 1, 2, 0, 1]])
    found = inferrer.generate(tokens, 20, seed=1)
    assert "".join("abcde"[token] for token in found[0].tolist()) == text
    assert global_states() == before
    likeliest = inferrer.generate(tokens, 3, temperature=0)
    assert torch.equal(likeliest, model.generate(tokens, 3, temperature=0)[:, 5:])
    with pytest.raises(ValueError, match=r"has the characters \['z'\].*Known are 'abcde'"):
        inferrer.generate("az")
    with pytest.raises(ValueError, match="A text is empty"):
        inferrer.generate("")
    with pytest.raises(ValueError, match="The prompt is empty"):
        inferrer.generate(torch.zeros(1, 0, dtype=torch.int64))


@pytest.mark.parametrize("prompt", [None, "abc"])
def test_a_text_is_written_after_each_epoch(tmp_path: Path, prompt: str | None) -> None:
    """With the same draws each time, and none from the run."""
    states = []
    for drawn in (False, True):
        writes = [ContinuationsCallback(prompt, count=9, characters="abcde")] if drawn else []
        trainer = make_trainer(
            make_model(dropout=0.1), callbacks=writes, run_dir=tmp_path / str(drawn)
        )
        set_seed(5)
        trainer.train(make_data(), 2)
        states.append(weights(trainer))
    assert same(*states)
    files = sorted((tmp_path / "True" / "pictures").iterdir())
    assert [path.name for path in files] == ["continuation-0001.txt", "continuation-0002.txt"]
    begin = "".join("abcde"[token] for token in make_data()[0][0].tolist())
    shown, _, added = files[-1].read_text(encoding="utf-8").strip().partition("|")
    assert shown == (prompt or begin)
    expected = LanguageModelInferrer(trainer.get_model(), characters="abcde").generate(
        shown, 9, temperature=0.8, seed=0
    )
    assert added == expected


@pytest.mark.parametrize(
    ("options", "folder", "message"),
    [
        ({"prompt": "xyz"}, "run", r"has the characters \['x', 'y', 'z'\]"),
        ({}, None, "Pictures need a folder"),
    ],
)
def test_texts_that_cannot_be_written_are_told_before_training(
    tmp_path: Path, options: dict[str, Any], folder: str | None, message: str
) -> None:
    callback = ContinuationsCallback(characters="abcde", **options)
    run_dir = None if folder is None else tmp_path / folder
    trainer = make_trainer(make_model(), callbacks=[callback], run_dir=run_dir)
    with pytest.raises(ValueError, match=message):
        trainer.train(make_data(), 1)
    assert trainer.progress.step == 0


@pytest.mark.parametrize("options", [{"count": 0}, {"temperature": -1.0}])
def test_continuations_have_a_length_and_a_temperature(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected [01] or more"):
        ContinuationsCallback(**options)


@pytest.mark.slow
def test_shakespeare_as_by_a_plain_loop() -> None:
    """On real text the validation loss is that of a plain loop over the same order of samples."""
    path = DATA / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"needs tinyshakespeare.txt in {path.parent} (or below LOOPWRIGHT_DATA)")
    source = TextFiles(str(path), block_length=64)
    tokens, following = source.tensors()
    train = (tokens[:3000], following[:3000])
    held_out = (tokens[-400:], following[-400:])
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(gpt((64,), source.labels_info.num_classes, width=64, heads=4, layers=2))
    optimizer = torch.optim.AdamW(models[0].parameters(), lr=3e-3)
    for epoch in (1, 2):
        for rows in epoch_order(3000, seed=5, epoch=epoch).split(30):
            loss = cross_entropy(models[0](train[0][rows]), train[1][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        expected = cross_entropy(models[0](held_out[0]), held_out[1]).item()
    optimizer = torch.optim.AdamW(models[1].parameters(), lr=3e-3)
    trainer = LanguageModelTrainer(models[1], None, optimizer, callbacks=(), seed=5)
    trainer.train(train, 2, eval_dataset=held_out, per_device_batch_size=30)
    found = trainer.run_history.get_latest_metric("eval_loss_epoch")
    assert found == pytest.approx(expected, rel=0.002)
    assert found < 2.7  # letters in proportion to their numbers cost 3.3
