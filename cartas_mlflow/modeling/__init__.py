"""Everything that touches weights."""
