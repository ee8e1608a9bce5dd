"""Tokens become indices and come back, and texts are made alike."""

import pytest

from loopwright.results import Vocabulary
from loopwright.results.vocabulary import find_sub_list, normalize_string, unicode_to_ascii


def test_tokens_are_numbered_after_those_for_no_word() -> None:
    words = Vocabulary("source")
    words.add_sentence(["ein", "fuchs", "ein"])
    assert words.word2index == {"ein": 4, "fuchs": 5}
    assert words.word2count == {"ein": 2, "fuchs": 1}
    assert words.num_words == 6
    assert Vocabulary("documents", document_level=True).default_tokens == [0, 1, 2, 3, 4, 5]


def test_sentences_go_there_and_back() -> None:
    words = Vocabulary("source")
    words.add_sentence(["ein", "fuchs"])
    indices = words.convert_sent2idx_sent(["ein", "roter", "fuchs"])
    assert indices == [2, 4, 1, 5, 3]
    assert words.convert_idx_sent2sent(indices) == ["SOS", "ein", "OOV", "fuchs", "EOS"]
    assert words.convert_idx_sent2sent(indices, rm_default_tokens=True) == ["ein", "fuchs"]
    assert words.convert_sent2idx_sent(["fuchs"], start_end_token=False) == [5]


def test_rare_tokens_are_trimmed_once() -> None:
    words = Vocabulary("source")
    words.add_sentence(["a", "b", "b", "c", "c", "c"])
    words.trim(2)
    assert words.word2index == {"b": 4, "c": 5}
    words.trim(9)
    assert words.num_words == 6


def test_an_empty_vocabulary_says_so() -> None:
    with pytest.raises(ValueError, match="'source' is empty. Add sentences first"):
        Vocabulary("source").convert_sent2idx_sent(["a"])


def test_texts_are_made_alike() -> None:
    assert unicode_to_ascii("Ślusàrski") == "Slusarski"
    assert normalize_string("  Où est-il?! 3 km...") == "ou est il ? ! 3 km . . ."
    assert normalize_string("Où", unicode_to_ascii_convert=False) == "o"


def test_a_list_is_found_within_another() -> None:
    assert find_sub_list([2, 3], [1, 2, 2, 3]) == (2, 3)
    assert find_sub_list([3, 2], [1, 2, 2, 3]) is None
    with pytest.raises(ValueError, match="A list of 2 is looked for in one of 1"):
        find_sub_list([1, 2], [1])
