"""Tests of luciole.kvcache."""
