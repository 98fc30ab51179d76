"""The benchmark (``make bench``): Tagstone beside docker-registry in proxy mode and nginx, same bytes, same clients, one run.

``images`` builds and pushes what is pulled, ``servers`` starts and ends the processes, ``clients`` drives wrk, curl and the
swarm, ``measures`` holds one function per line of the table, ``report`` knows the targets and prints.
"""
