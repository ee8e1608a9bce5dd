"""A vocabulary of tokens and indices, and texts made alike."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any


class Vocabulary:
    """Numbers tokens in the order in which they are added, after those that stand for no word.

    Args:
        name: What the vocabulary is of.
        document_level: Whether tokens for the start and the end of documents are among them.
    """

    PAD_token, OOV_token, SOS_token, EOS_token, SOD_token, EOD_token = range(6)

    def __init__(self, name: str, document_level: bool = False) -> None:
        self.name = name
        self.document_level = document_level
        self.trimmed = False
        self.word2count: Counter[str] = Counter()
        self._number([])

    def add_sentence(self, sentence_tokens: Iterable[Any]) -> None:
        """Add the tokens of a sentence."""
        for token in sentence_tokens:
            self.add_word(str(token))

    def add_word(self, word: str) -> None:
        """Add a token, or count it once more."""
        if word not in self.word2index:
            self.word2index[word] = self.num_words
            self.index2word[self.num_words] = word
        self.word2count[word] += 1

    def trim(self, min_count: int) -> None:
        """Keep the tokens that were added `min_count` times or more, and number them anew, once."""
        if self.trimmed:
            return
        self.trimmed = True
        kept = [word for word in self.word2index if self.word2count[word] >= min_count]
        self.word2count = Counter(kept)
        self._number(kept)

    @property
    def num_words(self) -> int:
        """How many indices are taken."""
        return len(self.index2word)

    def convert_sent2idx_sent(
        self, sent_tokens: Iterable[str], start_end_token: bool = True
    ) -> list[int]:
        """Return the indices of tokens; unknown ones become `OOV_token`.

        Args:
            sent_tokens: The tokens of a sentence.
            start_end_token: Whether `SOS_token` and `EOS_token` go around them.
        """
        self._require_words()
        indices = [self.word2index.get(token, self.OOV_token) for token in sent_tokens]
        return [self.SOS_token, *indices, self.EOS_token] if start_end_token else indices

    def convert_idx_sent2sent(
        self, idx_sent: Iterable[int], rm_default_tokens: bool = False
    ) -> list[str]:
        """Return the tokens of indices.

        Args:
            idx_sent: The indices of a sentence.
            rm_default_tokens: Whether tokens that stand for no word are left out.
        """
        self._require_words()
        return [
            self.index2word[int(index)]
            for index in idx_sent
            if not (rm_default_tokens and int(index) in self.default_tokens)
        ]

    def _number(self, words: Sequence[str]) -> None:
        names = ["PAD", "OOV", "SOS", "EOS", *(["SOD", "EOD"] if self.document_level else [])]
        self.default_tokens = list(range(len(names)))
        self.index2word = dict(enumerate([*names, *words]))
        self.word2index = {word: index for index, word in enumerate(words, len(names))}

    def _require_words(self) -> None:
        if not self.word2index:
            raise ValueError(f"The vocabulary {self.name!r} is empty. Add sentences first.")


def unicode_to_ascii(text_string: str) -> str:
    """Return a text without accents and other marks."""
    parts = unicodedata.normalize("NFD", text_string)
    return "".join(part for part in parts if unicodedata.category(part) != "Mn")


def normalize_string(text_string: str, unicode_to_ascii_convert: bool = True) -> str:
    """Return a text in lower case, of letters, digits and spaced `.`, `!` and `?` alone.

    Args:
        text_string: The text.
        unicode_to_ascii_convert: Whether letters lose their marks rather than go.
    """
    text = text_string.lower()
    text = unicode_to_ascii(text) if unicode_to_ascii_convert else text
    return " ".join(re.findall(r"[0-9a-z]+|[.!?]+?", text))


def find_sub_list(sub_list: Sequence[Any], main_list: Sequence[Any]) -> tuple[int, int] | None:
    """Return the first and the last index of a list within another; None where it is not.

    Raises:
        ValueError: It is empty, or longer than the other.
    """
    length = len(sub_list)
    if not 0 < length <= len(main_list):
        raise ValueError(
            f"A list of {length} is looked for in one of {len(main_list)}; expected 1 to "
            f"{len(main_list)} entries."
        )
    for start in range(len(main_list) - length + 1):
        if list(main_list[start : start + length]) == list(sub_list):
            return start, start + length - 1
    return None
