"""Tests of pairs of texts: from a file, and generated."""

from pathlib import Path
from typing import Any

import pytest
import torch

from loopwright.datasets import Addition, Reversal, TextPairs
from loopwright.trainers.tokens import decode_texts


def texts_of(source: Any) -> list[tuple[str, str]]:
    sources, targets = source.tensors()
    return list(
        zip(sources, decode_texts(targets, source.labels_info.names, (0, 1, 2)), strict=True)
    )


def test_pairs_of_a_file(tmp_path: Path) -> None:
    """A target has its begin, its end, and is filled up; the source stays text."""
    path = tmp_path / "pairs.tsv"
    path.write_text("one\tün\nthree\ttrois\n", encoding="utf-8")
    source = TextPairs(str(path))
    assert source.features_info.dtype is str
    info = source.labels_info
    assert info.shape == (7,)
    assert info.names == ("<padding>", "<begin>", "<end>", *sorted(set("üntrois")))
    sources, targets = source.read(0, 2)
    assert sources == ["one", "three"]
    number = info.names.index
    assert targets[0].tolist() == [1, number("ü"), number("n"), 2, 0, 0, 0]
    assert targets[1].tolist() == [1, *map(number, "trois"), 2]
    assert texts_of(source) == [("one", "ün"), ("three", "trois")]
    assert len(source) == 2
    assert torch.equal(source[1][1], targets[1])


@pytest.mark.parametrize("text", ["one\tun\ntwo", "one\tun\tuno", "one\t", "\tun"])
def test_lines_that_are_no_pairs_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"line \d: .*; expected a source, a tab and its target"):
        len(TextPairs(str(path)))
    path.write_text("")
    with pytest.raises(ValueError, match="holds no line"):
        len(TextPairs(str(path)))


def test_words_backwards() -> None:
    source = Reversal(300, min_length=2, max_length=4, letters="abcdef", seed=3)
    pairs = texts_of(source)
    assert all(target == word[::-1] for word, target in pairs)
    assert len({word for word, _ in pairs}) == len(pairs) == len(source) == 300
    assert {len(word) for word, _ in pairs} == {2, 3, 4}
    assert set("".join(word for word, _ in pairs)) == set("abcdef")
    assert source.labels_info.shape == (6,)
    assert texts_of(Reversal(300, 2, 4, "abcdef", seed=3)) == pairs
    assert texts_of(Reversal(300, 2, 4, "abcdef", seed=4)) != pairs


def test_sums() -> None:
    source = Addition(200, digits=2, seed=1)
    pairs = texts_of(source)
    for question, answer in pairs:
        first, second = map(int, question.split("+"))
        assert 0 <= first < 100 > second >= 0
        assert first + second == int(answer)
    assert len({question for question, _ in pairs}) == len(pairs) == 200
    assert texts_of(Addition(200, digits=2, seed=1)) == pairs
    assert texts_of(Addition(200, digits=2, seed=2)) != pairs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reversal(min_length=5, max_length=4), "min_length is 5, max_length 4"),
        (lambda: Reversal(letters=""), "letters ''"),
        (lambda: Reversal(10, 1, 2, "ab"), "num_samples is 10; expected 1 to 3"),
        (lambda: Addition(digits=0), "digits is 0; expected 1 to 9"),
        (lambda: Addition(51, digits=1), "num_samples is 51; expected 1 to 50"),
    ],
)
def test_what_cannot_be_generated_is_told(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
