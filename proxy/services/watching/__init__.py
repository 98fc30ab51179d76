"""The watcher: every pinned tag is asked about on a schedule, and the lists of tags of their repositories are read.

::

    course   where the hand of a round is, and how far it may go now         pure
    pace     how fast one upstream may be asked, and how it is doing         pure
    tags     a list of tags is read, and what is new in it is told
    lane     one upstream: its two rounds, one after another's turn
    watcher  all upstreams, in the one worker that has this duty
"""
