"""The extractors by name: a folder of unpacked packages in, paragraphs out."""

from functools import partial

from data.corpus import catalogs, documents, stories

EXTRACTORS = {
    "lines": documents.read_texts,
    "gettext": catalogs.read_mo,
    "gettext_sources": catalogs.read_mo_sources,
    "gettext_po": catalogs.read_po,
    "html_libreoffice": partial(documents.read_html, pattern="help/pt-BR/text/*/guide/**/*.html"),
    "html_handbook": partial(documents.read_html, pattern="html/pt-BR/*.html"),
    "html_gimp": partial(documents.read_html, pattern="help/pt_BR/*.html"),
    "stellarium": partial(documents.read_html, pattern="description.pt_BR.utf8"),
    "stellarium_en": partial(documents.read_html, pattern="description.en.utf8"),
    "mallard": documents.read_mallard,
    "bible": documents.read_bible,
    "endless_sky": stories.read_endless_sky,
    "arcanite": stories.read_arcanite,
    "kathekon": stories.read_kathekon,
    "crossfire": stories.read_crossfire,
    "recipes": stories.read_recipes,
    "austen": stories.read_austen,
    "alice": partial(stories.read_novel, name="alice29.txt"),
    "botchan": partial(stories.read_novel, name="botchan.txt"),
    "tom_sawyer": partial(stories.read_novel, name="Mark.Twain-Tom.Sawyer.txt"),
    "moby_dick": partial(stories.read_novel, name="data.txt"),
}
