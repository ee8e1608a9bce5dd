"""Tests of the data sets, in a folder that does not shadow the package `datasets`."""
