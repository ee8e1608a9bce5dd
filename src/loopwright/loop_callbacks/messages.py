"""Messages between the callbacks of a TrainLoop."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class MessageHandling(Enum):
    """Says how long a message is kept."""

    KEEP_FOREVER = "keep_forever"
    UNTIL_END_OF_EPOCH = "until_end_of_epoch"
    UNTIL_READ = "until_read"
    OVERWRITE = "overwrite"
    """It takes the place of all messages of its key; the only one to combine with another."""


@dataclass(frozen=True)
class Message:
    """Is one message, with how it is kept."""

    key: str
    value: Any
    msg_handling_settings: list[MessageHandling]


class MessageService:
    """Keeps messages by key until they have served."""

    def __init__(self) -> None:
        self.message_store: dict[str, list[Message]] = {}

    def read_messages(self, key: str) -> list[Any] | None:
        """Return the values of a key's messages, oldest first; None for an unknown key."""
        if key not in self.message_store:
            return None
        messages = self.message_store[key]
        self._drop(key, MessageHandling.UNTIL_READ)
        return [message.value for message in messages]

    def write_message(
        self,
        key: str,
        value: Any,
        msg_handling_settings: MessageHandling
        | Sequence[MessageHandling] = MessageHandling.UNTIL_END_OF_EPOCH,
    ) -> None:
        """Leave a message.

        Args:
            key: What readers ask for.
            value: The content.
            msg_handling_settings: How long it is kept: one setting, or OVERWRITE with another.

        Raises:
            TypeError: A setting is no `MessageHandling`.
            ValueError: Two settings were combined, neither of them OVERWRITE.
        """
        settings = _checked(msg_handling_settings)
        message = Message(key, value, settings)
        earlier = [] if MessageHandling.OVERWRITE in settings else self.message_store.get(key, [])
        self.message_store[key] = [*earlier, message]

    def end_of_epoch_trigger(self) -> None:
        """Drop what was kept for this epoch; the loop calls it after its callbacks."""
        for key in list(self.message_store):
            self._drop(key, MessageHandling.UNTIL_END_OF_EPOCH)
            if not self.message_store[key]:
                del self.message_store[key]

    def _drop(self, key: str, setting: MessageHandling) -> None:
        messages = self.message_store[key]
        self.message_store[key] = [m for m in messages if setting not in m.msg_handling_settings]


def _checked(
    given: MessageHandling | Sequence[MessageHandling],
) -> list[MessageHandling]:
    settings = [given] if isinstance(given, MessageHandling) else given
    known = ", ".join(setting.name for setting in MessageHandling)
    if not isinstance(settings, Sequence) or not all(
        isinstance(setting, MessageHandling) for setting in settings
    ):
        raise TypeError(
            f"msg_handling_settings is {given!r}; expected a MessageHandling ({known}) or a list "
            "of them."
        )
    if len(settings) > 1 and MessageHandling.OVERWRITE not in settings:
        raise ValueError(
            f"msg_handling_settings is {[setting.name for setting in settings]}; only OVERWRITE "
            "combines with another. Give one of them."
        )
    return list(settings)
