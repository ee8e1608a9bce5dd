"""URLs: what they must not show, and where their copies are kept."""

import random

import pytest

from loopwright.storage.backoff import Backoff, is_final
from loopwright.storage.urls import cache_folder, is_url, mask_text, mask_url, secrets_in


def test_urls_and_paths_are_told_apart() -> None:
    assert is_url("s3://bucket/run")
    assert is_url("simplecache::s3://bucket/run")
    assert not is_url("runs/x")
    assert not is_url("c:\\runs")
    assert not is_url(None)


def test_passwords_and_query_values_are_masked() -> None:
    masked = mask_url("sftp://me:hunter2@host/run?token=abc123&sig=x%2By")
    assert masked == "sftp://me:***@host/run?token=***&sig=***"
    assert mask_url("abfs://container@account/run") == "abfs://container@account/run"


def test_secrets_are_masked_wherever_a_text_repeats_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environs-secret")
    options = {"secret": "options-secret", "client_kwargs": {"aws_session_token": "deep-token"}}
    secrets = secrets_in("sftp://me:hun%2Fter2@host/run", options)
    text = "hun/ter2 hun%2Fter2 options-secret deep-token environs-secret host"
    assert mask_text(text, secrets) == "*** *** *** *** *** host"


def test_the_cache_of_a_url_does_not_depend_on_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    first, second = (cache_folder(f"sftp://me:{word}@host/run one/") for word in ("a1", "b2"))
    assert first == second
    assert first.parent.as_posix() == "/somewhere/loopwright/remote"
    assert first.name.startswith("run-one-")
    assert cache_folder("s3://bucket/run") != cache_folder("s3://other/run")


def test_waits_double_up_to_the_longest_with_jitter() -> None:
    backoff, draws = Backoff(first_seconds=1, most_seconds=10), random.Random(1)
    for num_failures, longest in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (5000, 10)]:
        waits = [backoff.seconds(num_failures, draws) for _ in range(200)]
        assert longest / 2 <= min(waits) < 0.6 * longest
        assert 0.9 * longest < max(waits) <= longest
    with pytest.raises(ValueError, match="first_seconds is 5 and most_seconds 1"):
        Backoff(first_seconds=5, most_seconds=1)


def test_what_another_attempt_cannot_mend() -> None:
    no_credentials = type("NoCredentialsError", (Exception,), {})
    assert all(map(is_final, [PermissionError(), FileNotFoundError(), no_credentials()]))
    assert not any(map(is_final, [ConnectionError(), TimeoutError(), OSError(), RuntimeError()]))
