"""Adapters that leave the experiment: the logged model, its requests, the champion."""
