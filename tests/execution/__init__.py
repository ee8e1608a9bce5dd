"""Tests of how a step is executed."""
