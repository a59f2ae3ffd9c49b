"""What every command asks for: a profile, its data, the device, changed settings."""

import argparse
import os
import re
from pathlib import Path

import torch

from ribkit.runtime import parallel
from ribkit.runtime.device import device
from ribkit.runtime.errors import InputError
from ribkit.study.inputs import needed
from ribkit.study.study import Study

GPU = Path("/dev/nvidia0")  # where a machine has one


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Make the parser that every command starts from: profile, data, device, changed settings."""
    command = argparse.ArgumentParser(prog=name, description=description)
    command.add_argument("--profile", default="mini")
    command.add_argument("--data", default="", help="a folder in VOC layout")
    add_common(command)
    return command


def add_common(command: argparse.ArgumentParser) -> None:
    """Add what every command asks for: the device, changed settings."""
    command.add_argument("--device", default="", help="cuda or cpu; CUDA where there is one")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")


def opened(options: argparse.Namespace) -> Study:
    """Open the study that a command line names. Raises InputError."""
    use_machine(options.device)
    study = Study(options.profile, options.data, overrides(options.set))
    if study.profile.data == "folder":
        raise InputError(needed(study.profile))
    return study


def use_machine(device_name: str) -> None:
    """Choose the device; InputError, before anything is computed, for what cannot be used."""
    set_device(device_name)
    require_driver()
    parallel.workers()


def overrides(texts: list[str]) -> dict[str, str]:
    """``["steps=5 digits=my digits"]`` -> ``{"steps": "5", "digits": "my digits"}``.

    Raises InputError for a text without ``=``, and for a name that is there twice.
    """
    pairs = [pair for text in texts for pair in re.split(r"\s+(?=[\w.]+=)", text.strip()) if pair]
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"'{pair}' is not of the form name=value, as in PARAMS=\"steps=5\".")
    given = {}
    for name, value in (pair.split("=", 1) for pair in pairs):
        if name in given:
            raise InputError(f"'{name}' is set twice; leave one out.")
        given[name] = value
    return given


def set_device(name: str) -> None:
    """Make everything compute on this device, or on `device`; InputError if it is not there."""
    if name not in ("", "cpu", "cuda"):
        raise InputError(f"device '{name}' is unknown; use cuda or cpu.")
    if name:
        os.environ["RIBKIT_DEVICE"] = name
    chosen = device()
    if chosen.type == "cuda" and (
        not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(f"device '{chosen}' is not there; use cpu, or leave it out.")


def require_driver() -> None:
    """Raise InputError where there is a GPU that torch cannot use, unless it was to stay unused."""
    chosen = os.environ.get("RIBKIT_DEVICE") or "CUDA_VISIBLE_DEVICES" in os.environ
    if GPU.exists() and not chosen and not torch.cuda.is_available():
        raise InputError(
            f"torch {torch.__version__} cannot use the GPU of this machine: update its driver "
            "(nvidia-smi tells which one it is), or compute without it (DEVICE=cpu)."
        )
