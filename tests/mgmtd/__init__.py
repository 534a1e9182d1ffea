"""Tests of luciole.mgmtd."""
