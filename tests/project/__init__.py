"""Tests of the base classes of projects."""
