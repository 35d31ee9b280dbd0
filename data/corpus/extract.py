"""The extractors by name: a folder of unpacked packages in, paragraphs out."""

from functools import partial

from data.corpus import catalogs, documents, stories

EXTRACTORS = {
    "gettext": catalogs.read_mo,
    "gettext_po": catalogs.read_po,
    "html_libreoffice": partial(documents.read_html, pattern="help/pt-BR/text/*/guide/**/*.html"),
    "html_handbook": partial(documents.read_html, pattern="html/pt-BR/*.html"),
    "html_gimp": partial(documents.read_html, pattern="help/pt_BR/*.html"),
    "stellarium": partial(documents.read_html, pattern="description.pt_BR.utf8"),
    "mallard": documents.read_mallard,
    "bible": documents.read_bible,
    "endless_sky": stories.read_endless_sky,
    "arcanite": stories.read_arcanite,
    "kathekon": stories.read_kathekon,
    "austen": stories.read_austen,
}
