"""Tests of loopwright.callbacks."""
