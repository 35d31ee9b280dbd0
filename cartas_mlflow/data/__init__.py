"""Table of readings -> model inputs. Never imports torch at import time."""
