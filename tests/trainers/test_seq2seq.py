"""Sequences into sequences: the loss, the trainer beside a plain loop, search, and translating."""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import same, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import TensorDataset

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.datasets import Reversal
from loopwright.models import rnn_seq2seq, transformer_seq2seq
from loopwright.preprocessors import Characters
from loopwright.seed import set_seed
from loopwright.trainers import (
    ExactMatchCallback,
    Seq2SeqInferrer,
    Seq2SeqTrainer,
    TranslationsCallback,
    beam_search,
    mix_predictions,
    token_cross_entropy,
)

PADDING, BEGIN, END = 0, 1, 2
NETWORKS = {"rnn": rnn_seq2seq, "transformer": transformer_seq2seq}


def make_model(kind: str, seed: int = 0, **arguments: Any) -> Any:
    options = {"width": 8} | ({"heads": 2, "layers": 1} if kind == "transformer" else {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[kind]((6,), 7, 5, **options | arguments)


def make_data(count: int = 12) -> tuple[Tensor, Tensor]:
    """Return sources of 2 to 6 tokens, and targets that hold each of them plus two."""
    generator = torch.Generator().manual_seed(1)
    sources = torch.randint(1, 5, (count, 6), generator=generator)
    lengths = torch.randint(2, 7, (count, 1), generator=generator)
    sources[torch.arange(6) >= lengths] = PADDING
    targets = torch.zeros(count, 8, dtype=torch.int64)
    targets[:, 0] = BEGIN
    targets[:, 1:7] = torch.where(sources > 0, sources + 2, PADDING)
    targets.scatter_(1, lengths + 1, END)
    return sources, targets


def make_trainer(model: nn.Module, lr: float = 1e-2, **options: Any) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    return Seq2SeqTrainer(model, None, optimizer, **{"callbacks": (), "seed": 3} | options)


def test_the_loss_is_a_mean_over_tokens() -> None:
    """Padding is not counted, and a batch of nothing else costs 0."""
    logits, targets = torch.randn(3, 7, 4), torch.randint(1, 7, (3, 4))
    targets[0, 2:] = targets[2, 1:] = PADDING
    kept = targets != PADDING
    chances = log_softmax(logits, dim=1).movedim(1, 2)[kept]
    expected = -chances[torch.arange(7), targets[kept]].mean()
    torch.testing.assert_close(token_cross_entropy(logits, targets, PADDING), expected)
    smoothed = 0.9 * expected - 0.1 * chances.mean()
    found = token_cross_entropy(logits, targets, PADDING, label_smoothing=0.1)
    torch.testing.assert_close(found, smoothed)
    whole = token_cross_entropy(logits, targets)
    torch.testing.assert_close(whole, cross_entropy(logits, targets))
    assert token_cross_entropy(logits, torch.zeros_like(targets), PADDING) == 0


def test_a_share_of_the_inputs_is_predicted() -> None:
    inputs = torch.cat([torch.ones(500, 1), torch.full((500, 4), 3), torch.zeros(500, 1)], 1).long()
    predicted = torch.full_like(inputs, 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixed = mix_predictions(inputs, predicted, 0.75)
    assert set(mixed[:, 0].tolist()) == {1}
    assert set(mixed[:, -1].tolist()) == {0}
    assert set(mixed[:, 1:-1].flatten().tolist()) == {3, 5}
    assert (mixed[:, 1:-1] == 3).float().mean() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(mix_predictions(inputs, predicted, 1.0), inputs)
    distinct = torch.arange(4, 10)[None]
    replaced = mix_predictions(torch.ones_like(distinct), distinct, 0.0)
    assert replaced.tolist() == [[1, 4, 5, 6, 7, 8]]  # what is predicted after the one before


@pytest.mark.parametrize("kind", NETWORKS)
def test_padding_changes_nothing(kind: str) -> None:
    """A source gives the same logits however far it is filled up, beside longer ones or alone."""
    model, (sources, targets) = make_model(kind).eval(), make_data()
    with torch.no_grad():
        together = model(sources, targets[:, :-1])
        for row in range(4):
            alone = sources[row : row + 1, : int((sources[row] != PADDING).sum())]
            torch.testing.assert_close(
                model(alone, targets[row : row + 1, :-1]), together[row][None]
            )
        empty = model(torch.zeros(2, 6, dtype=torch.int64), targets[:2, :-1])
    assert empty.isfinite().all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_decoder_sees_nothing_of_what_follows(kind: str) -> None:
    model, (sources, targets) = make_model(kind).eval(), make_data(2)
    changed = targets.clone()
    changed[:, 4] = 6 - changed[:, 4]
    with torch.no_grad():
        first, second = model(sources, targets), model(sources, changed)
    torch.testing.assert_close(first[:, :, :4], second[:, :, :4])
    assert not torch.allclose(first[:, :, 4:], second[:, :, 4:])


def test_what_networks_refuse() -> None:
    with pytest.raises(ValueError, match="takes sequences of token numbers"):
        rnn_seq2seq((3, 8, 8), 7, 5)
    with pytest.raises(ValueError, match="heads is 3, which does not divide width, 8"):
        transformer_seq2seq((6,), 7, 5, width=8, heads=3)
    with pytest.raises(ValueError, match="width is 9; expected an even number"):
        transformer_seq2seq((6,), 7, 5, width=9, heads=3)


def plain_losses(model: Any, data: tuple[Tensor, Tensor], teacher_forcing: float) -> list[float]:
    """Train two epochs of batches of 4 as a script would, and return the losses."""
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(2):
        for x, y in zip(data[0].split(4), data[1].split(4), strict=True):
            inputs = y[:, :-1]
            if teacher_forcing < 1:
                with torch.no_grad():
                    guessed = model(x, inputs).argmax(1)
                is_true = torch.rand(inputs.shape) < teacher_forcing
                inputs = inputs.clone()
                for i, j in product(range(4), range(1, inputs.shape[1])):
                    if not is_true[i, j] and y[i, j] != PADDING:
                        inputs[i, j] = guessed[i, j - 1]
            logits = model(x, inputs)
            loss = cross_entropy(logits, y[:, 1:], ignore_index=PADDING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("teacher_forcing", [1.0, 0.5])
@pytest.mark.parametrize("kind", NETWORKS)
def test_training_is_that_of_a_plain_loop(kind: str, teacher_forcing: float) -> None:
    """The same losses and weights, with the draws from the global generator."""
    plain, ours, data = make_model(kind, dropout=0.1), make_model(kind, dropout=0.1), make_data()
    set_seed(5)
    losses = plain_losses(plain, data, teacher_forcing)
    trainer = make_trainer(ours, teacher_forcing=teacher_forcing)
    set_seed(5)
    trainer.train(data, 2, per_device_batch_size=4, train_dataloader_kwargs={"shuffle": False})
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    counts = [(y[:, 1:] != PADDING).sum().item() for y in data[1].split(4)]
    expected = [np.average(losses[:3], weights=counts), np.average(losses[3:], weights=counts)]
    found = trainer.run_history.get_metric_values("train_loss_epoch")
    assert found == pytest.approx(expected, rel=1e-5)


def test_accumulation_weighs_by_tokens() -> None:
    """Three micro-batches of different numbers of tokens give the gradient of the whole batch."""
    data = make_data()
    states = []
    for size, accumulated in ((12, 1), (4, 3)):
        model = make_model("rnn").double()
        trainer = make_trainer(model)
        trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer.train(data, 1, per_device_batch_size=size, gradient_accumulation_steps=accumulated)
        states.append(weights(trainer))
    for whole, parts in zip(*states, strict=True):
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)


def test_evaluation_is_given_the_true_tokens() -> None:
    model, data = make_model("transformer", dropout=0.0), make_data()
    trainer = make_trainer(model, teacher_forcing=0.0, label_smoothing=0.2)
    trainer.evaluate(data, per_device_batch_size=5)
    with torch.no_grad():
        logits = model.eval()(data[0], data[1][:, :-1])
    expected = cross_entropy(logits, data[1][:, 1:], ignore_index=PADDING).item()
    found = trainer.run_history.get_latest_metric("evaluation_loss")
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_own_loss_gets_logits_and_targets() -> None:
    model, data = make_model("rnn"), make_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Seq2SeqTrainer(model, lambda logits, y: y.float().mean(), optimizer, callbacks=())
    trainer.evaluate(data, per_device_batch_size=12)
    found = trainer.run_history.get_latest_metric("evaluation_loss")
    assert found == pytest.approx(data[1][:, 1:].float().mean().item())


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_run_goes_on_exactly(tmp_path: Path, kind: str) -> None:
    """From a checkpoint inside an epoch, with scheduled sampling, dropout and accumulation."""
    settings = {"per_device_batch_size": 2, "gradient_accumulation_steps": 2}
    settings["gradient_clip_norm"] = 1.0
    options = {"teacher_forcing": 0.5, "label_smoothing": 0.1}
    folder = {"run_dir": tmp_path / "whole", "checkpoint": CheckpointPolicy(every_steps=2)}
    whole = make_trainer(make_model(kind, dropout=0.2), **options, **folder)
    set_seed(5)
    whole.train(make_data(), 3, **settings)
    paths = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    inside = next(path for path in paths if path.name.startswith("step-"))
    resumed = make_trainer(make_model(kind, seed=9, dropout=0.2), **options)
    set_seed(6)
    resumed.train(make_data(), 3, **settings, resume=inside)
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("options", [{"teacher_forcing": 1.5}, {"label_smoothing": 1.0}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"teacher_forcing is .*expected 0 to 1"):
        make_trainer(make_model("rnn"), **options)


def test_an_own_loss_is_not_smoothed() -> None:
    model = make_model("rnn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing is 0.1, and the loss_func .*Smooth in"):
        Seq2SeqTrainer(model, torch.nn.CrossEntropyLoss(), optimizer, label_smoothing=0.1)


# ---------------------------------------------------------------------------------- search


def table_logits(tokens: Tensor) -> Tensor:
    """Return logits that depend on the whole sequence, the same for the same one."""
    numbers = (tokens * torch.tensor([7, 5, 3, 11, 13])[: tokens.shape[1]]).sum(dim=1)
    columns = torch.arange(5)
    return 2 * torch.sin(numbers[:, None] * 1.7 + columns * 2.3) + columns * 0.1


def log_probability(sequence: tuple[int, ...], first: int) -> float:
    tokens, total = [first], 0.0
    for token in sequence:
        total += log_softmax(table_logits(torch.tensor([tokens])), dim=1)[0, token].item()
        tokens.append(token)
    return total


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_search_finds_the_best_of_all(penalty: float) -> None:
    """Against every sequence of up to three tokens, for three samples at once."""
    first = torch.tensor([1, 3, 4])
    found = beam_search(
        table_logits,
        first,
        max_length=3,
        end=END,
        padding=PADDING,
        beams=200,
        length_penalty=penalty,
    )
    ended = [s for n in (1, 2, 3) for s in product((1, 3, 4), repeat=n - 1) for s in [(*s, END)]]
    possible = [*ended, *product((1, 3, 4), repeat=3)]
    for row, begin in zip(found.tolist(), first.tolist(), strict=True):
        scores = {s: log_probability(s, begin) / len(s) ** penalty for s in possible}
        best = max(scores, key=scores.__getitem__)
        assert row == [*best, *[PADDING] * (3 - len(best))]


def test_one_beam_is_greedy_and_more_find_better() -> None:
    greedy = beam_search(table_logits, torch.tensor([3]), max_length=4, end=END, padding=PADDING)
    tokens = [3]
    while len(tokens) < 5 and tokens[-1] != END:
        logits = table_logits(torch.tensor([tokens]))[0]
        logits[PADDING] = -torch.inf
        tokens.append(int(logits.argmax()))
    assert greedy[0].tolist() == [*tokens[1:], *[PADDING] * (5 - len(tokens))]
    better = 0
    for begin in range(3, 40):
        options = {"max_length": 4, "end": END, "padding": PADDING, "length_penalty": 0.0}
        first = torch.tensor([begin])
        pair = [beam_search(table_logits, first, **options, beams=n)[0] for n in (1, 4)]
        scores = [log_probability(tuple(s[s != PADDING].tolist()), begin) for s in pair]
        assert scores[1] >= scores[0] - 1e-5
        better += scores[1] > scores[0] + 1e-5
    assert better


@pytest.mark.parametrize("options", [{"beams": 0}, {"max_length": 0}])
def test_a_search_is_checked(options: dict[str, int]) -> None:
    arguments = {"max_length": 3, "end": END, "padding": PADDING} | options
    with pytest.raises(ValueError, match=r"max_length is . and beams .; expected 1 or more"):
        beam_search(table_logits, torch.tensor([1]), **arguments)  # type: ignore[arg-type]


def test_what_ends_a_sequence_does_not_fill_it_up() -> None:
    with pytest.raises(ValueError, match="end and padding are both 2; expected two tokens"):
        beam_search(table_logits, torch.tensor([1]), max_length=3, end=2, padding=2)


# ------------------------------------------------------------------------------ translating


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_learnt_is_translated(kind: str) -> None:
    data = make_data()
    model = make_model(kind, width=32, dropout=0.0)
    trainer = make_trainer(model, lr=1e-2 if kind == "rnn" else 3e-3)
    trainer.train(data, 60, per_device_batch_size=12)
    for beams in (1, 3):
        found = Seq2SeqInferrer(model).translate(data[0], max_length=7, beams=beams)
        assert torch.equal(found, data[1][:, 1:])


def test_what_is_right_is_counted_and_samples_are_written(tmp_path: Path) -> None:
    """After each epoch, without a change of the run."""
    data, states = make_data(), []
    for watched in (False, True):
        callbacks = [ExactMatchCallback(), TranslationsCallback(2)] if watched else []
        model = make_model("rnn", width=16, dropout=0.1)
        trainer = make_trainer(model, callbacks=callbacks, run_dir=tmp_path / str(watched))
        set_seed(5)
        held_out = TensorDataset(*data)
        trainer.train(data, 30, eval_dataset=held_out, per_device_batch_size=5)
        states.append(weights(trainer))
    assert same(*states)
    found = Seq2SeqInferrer(model).translate(data[0], max_length=7)
    expected = (found == data[1][:, 1:]).all(dim=1).float().mean().item()
    matches = trainer.run_history.get_metric_values("exact_match")
    assert len(matches) == 30
    assert matches[-1] == pytest.approx(expected)
    assert expected > matches[0] == 0
    written = sorted((tmp_path / "True" / "pictures").iterdir())
    assert [path.name for path in written] == [f"translations-{n:04d}.txt" for n in range(1, 31)]
    source = " ".join(str(token) for token in data[0][0].tolist() if token)
    target = " ".join(str(token + 2) for token in data[0][0].tolist() if token)
    first, last = (written[n].read_text(encoding="utf-8").splitlines()[0] for n in (0, -1))
    assert first.startswith(f"{source} → ")
    assert first.endswith(f"(expected {target})")
    made = " ".join(str(token) for token in found[0].tolist() if token not in (PADDING, END))
    assert last == f"{source} → {made}" + ("" if made == target else f"  (expected {target})")


def test_samples_of_arrays_are_written(tmp_path: Path) -> None:
    data = tuple(tensor.numpy() for tensor in make_data())
    trainer = make_trainer(make_model("rnn"), callbacks=[TranslationsCallback(2)], run_dir=tmp_path)
    trainer.train(data, 1)
    text = (tmp_path / "pictures" / "translations-0001.txt").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2


def test_texts_need_an_encoding() -> None:
    inferrer = Seq2SeqInferrer(make_model("rnn"))
    with pytest.raises(ValueError, match=r"Texts need Seq2SeqInferrer\(encode=..., names=...\)"):
        inferrer.translate(["ab"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_held_out_sequences_are_translated_exactly(kind: str) -> None:
    """Over 98 % of words that were never seen are written backwards without a mistake."""
    texts, targets = Reversal(7000, max_length=7, letters="abcdef").tensors()
    step = Characters(7)
    step.fit(texts)
    sources = step.transform(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = NETWORKS[kind]((7,), 9, 8, width=64, dropout=0.0)
    lr = 4e-3 if kind == "rnn" else 2e-3
    trainer = make_trainer(model, lr, callbacks=[ExactMatchCallback()])
    trainer.train(
        (sources[:6500], targets[:6500]),
        10,
        per_device_batch_size=100,
        gradient_clip_norm=1.0,
        create_scheduler_fn=partial(LinearLR, start_factor=1.0, end_factor=0.02, total_iters=650),
    )
    trainer.evaluate((sources[6500:], targets[6500:]), per_device_batch_size=500)
    assert trainer.run_history.get_latest_metric("exact_match") > 0.98
