"""Tagstone's verbs: receive, route, decide, fetch, verify, serve. Imports ``storage``, which owns the nouns."""

__version__ = "0.1.0"
