"""Tests of loopwright.schedulers."""
