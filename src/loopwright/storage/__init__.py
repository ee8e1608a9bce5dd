"""Folders at URLs: verified transfers, and a copy of a run that is kept while it trains."""

from loopwright.storage.backoff import Backoff
from loopwright.storage.digests import Digest, digest_of
from loopwright.storage.fetching import fetch, fetch_checkpoint
from loopwright.storage.mirror import Mirror
from loopwright.storage.remote import Storage, open_storage
from loopwright.storage.urls import cache_folder, is_url, mask_url

__all__ = [
    "Backoff",
    "Digest",
    "Mirror",
    "Storage",
    "cache_folder",
    "digest_of",
    "fetch",
    "fetch_checkpoint",
    "is_url",
    "mask_url",
    "open_storage",
]
