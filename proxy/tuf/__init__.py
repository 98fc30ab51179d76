"""Trusted roots by TUF: what is stored of a repository, and how it is asked again.

::

    repository    which one: address, first root metadata, target
    state         what is known of it, in one file below the data directory
    fetcher       HTTP for python-tuf
    refresh       ask, hold against what was known, store

Nothing here knows what a trusted root means; nothing but :mod:`proxy.tuf.refresh` and :mod:`proxy.tuf.fetcher` needs python-tuf
or a network.
"""
