"""Tests of the augmentors."""
