"""Structured logs: a constant event name and key-value pairs, JSON lines in services."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog


def get_logger(component: str) -> structlog.stdlib.BoundLogger:
    """A logger bound to a component's name."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(component=component))


def configure(*, level: str = "info", stream: TextIO | None = None, json: bool = True) -> None:
    """Sets up logging for a process. Called once, by the command line.

    Args:
        level: "debug", "info", "warning" or "error".
        stream: where lines go; standard error by default.
        json: one JSON object a line; otherwise for people.
    """
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
