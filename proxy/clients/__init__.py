"""How container clients are made to pull through Tagstone, and through nothing else.

A refusal is worth nothing if the client then asks the upstream. What each client does with a refusal was measured, and what was
learnt is here::

    endpoint    the address at which clients reach Tagstone, and the versions of clients
    templates   the files of ``config/clients``, every value escaped for their format
    rendering   what is wished for → the files, the warnings and the proof
    merging     files that belong to others: added to without a loss, or left alone
    install     onto a file system, atomically, what was there kept

and, for a node as it stands (``tagstone doctor``)::

    reading     other people's TOML, JSON and YAML, with line numbers
    traps/      what goes around the proxy: one table, one examiner for each kind of client
    canary      what every client does when it is refused, judged by what it says; canary_clients: how each is asked
"""
