"""Tests of the parts that are chosen by name."""
