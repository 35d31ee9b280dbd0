"""One training, from its settings to its report: what ``train`` and a trial of a search share."""
