"""The hashes of requirements.lock: ``python tools/hash_lock.py ADDRESS``, of a package index.

They are of the files that pip could take on Linux with Python 3.11 or 3.12, on x86-64 or ARM:
every wheel that fits one of the four, and the source where one of them has no wheel.
"""

import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version
from tqdm import tqdm

from ribkit.runtime.files import whole

LOCK = Path(__file__).parents[1] / "requirements.lock"
JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


def installable(minor: int, processor: str) -> frozenset[Tag]:
    """Tags of the wheels that CPython 3.``minor`` can install on Linux, whatever its C library."""
    old = [f"manylinux{year}_{processor}" for year in (1, 2010, 2014)]
    platforms = [*old, *(f"manylinux_2_{glibc}_{processor}" for glibc in range(5, 60))]
    python, name = (3, minor), f"cp3{minor}"
    return frozenset(
        [*cpython_tags(python, [name], platforms), *compatible_tags(python, name, platforms)]
    )


MACHINES = [
    installable(minor, processor) for minor in (11, 12) for processor in ("x86_64", "aarch64")
]


def parsed(filename: str) -> tuple[Version | None, frozenset[Tag]]:
    """Version and tags of a file; a source has no tags, and what pip does not take no version."""
    try:
        if filename.endswith(".whl"):
            _, version, _, fits = parse_wheel_filename(filename)
            return version, fits
        return parse_sdist_filename(filename)[1], frozenset()
    except ValueError:
        return None, frozenset()


def hashes(version: Version, files: list[dict]) -> list[str]:
    """SHA-256 of those of a package's ``files``, as an index lists them, that a machine takes."""
    listed = [(file["hashes"]["sha256"], *parsed(file["filename"])) for file in files]
    fits = {digest: tags for digest, of, tags in listed if of == version}
    taken = [digest for digest, tags in fits.items() if any(tags & own for own in MACHINES)]
    if not all(any(tags & own for tags in fits.values()) for own in MACHINES):
        taken += [digest for digest, tags in fits.items() if not tags]
    return sorted(taken)


def hashed(line: str, index: str) -> str:
    """The lock's line with the hashes of today; a comment as it is."""
    pin, _, _ = line.partition(" --hash=")
    if pin.startswith("#"):
        return pin
    requirement = Requirement(pin)
    (only,) = requirement.specifier
    address = f"{index.rstrip('/')}/{canonicalize_name(requirement.name)}/"
    with urlopen(Request(address, headers=JSON)) as answer:
        found = hashes(Version(only.version), json.load(answer)["files"])
    if not found:
        raise SystemExit(f"{index} has no file of {pin} for Linux; pin another version.")
    return " ".join([pin, *(f"--hash=sha256:{digest}" for digest in found)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Give the address of the package index that pip uses.")
    lines = [hashed(line, sys.argv[1]) for line in tqdm(LOCK.read_text().splitlines())]
    with whole(LOCK) as partial:
        partial.write_text("\n".join(lines) + "\n")
