"""Finds the code on pages of the documentation; runs commands as a user would."""

import logging
import pathlib
import re
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from diffusion_jax import command_line, main

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def find_blocks(language: str, text: str) -> list[str]:
    """Returns the fenced blocks of a language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def find_commands(text: str) -> list[str]:
    """Returns the commands in the fenced bash blocks, without their comments."""
    lines = "\n".join(find_blocks("(?:bash|sh)", text)).replace("\\\n", " ")
    lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines.splitlines()]
    return [line for line in dict.fromkeys(lines) if line]


def call_main(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the program in this process, which saves the imports, and cleans up."""
    argv = ["main.py", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    logger, known = logging.getLogger("diffusion_jax"), set(flags.FLAGS)
    before = logger.handlers[:], logger.propagate, logger.level
    try:
        with flagsaver.flagsaver():
            main.main(command_line.parse_flags(argv))
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        logger.handlers[:], logger.propagate = before[:2]
        logger.setLevel(before[2])
