"""Continuous verification: what is pinned is judged again, on a schedule and whenever rules or trust change.

::

    pins      one pin: judged, and what came of it told
    leave     how soon an upstream may be asked for the sake of it
    lane      one upstream: its round, what a change of the rules concerns, what could not be told
    endings   what of the trust ends soon
    verifier  all upstreams, in the one worker that has this duty
    sweep     some pins now, because somebody wants to know
"""
