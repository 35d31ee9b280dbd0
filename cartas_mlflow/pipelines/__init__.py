"""One module per entry point; each reads top to bottom like the phases of the guide."""
