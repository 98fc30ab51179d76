"""The demonstration: attacks on tags, told by what real pulls are answered. It needs this machine alone, and no network.

::

    pictures   images and signatures, made here           pure
    upstream   a registry whose owner lost control of it
    clients    pulls as containerd, docker and podman make them
    sink       somebody on call: receives alerts, and checks that they are genuine
    stage      keys, upstream, proxy and clients, in a folder of their own
    stories    what happens, and what everybody must see
"""
