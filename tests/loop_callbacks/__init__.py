"""Tests of the callbacks of a TrainLoop."""
