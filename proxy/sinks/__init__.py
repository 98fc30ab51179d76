"""Where alerts go: one module for each kind of sink, and what they share.

::

    model          what a sink is asked and what it answers
    secrets        read from files and the environment, when they are needed
    http           one POST: no redirects, bounded, its answer judged
    webhooks       signatures of Standard Webhooks
    cloudevents    CloudEvents 1.0 by HTTP
    alertmanager   Alertmanager's API v2
    people         services that apprise knows
    words          events as people read them
    reference      the examples of docs/alerts.md
"""
