"""Tests of the trainers by objective."""
