"""Tests of luciole.storage."""
