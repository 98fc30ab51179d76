"""A registry that misbehaves on purpose, and everything that tests put into it.

==============  ====================================================================================================
``registry``    :class:`Registry`: an honest in-memory registry on a loopback port, which can be changed under its clients
``behaviours``  what a fault does: cuts, lies, stalls, redirects, rate limits, endless bodies …
``when``        on which requests it does it: ``registry.on(when.blob("GET"), behaviours.cut(500), times=1)``
``tokens``      token endpoints of all kinds, Basic authentication
``storage``     other hosts with signed URLs, to which registries redirect
``profiles``    whole upstreams by name: ``async with profile("quay-redirect") as world``
``images``      pure builders of images, indexes, artifacts
``signing``     pure builders of cosign signatures and Sigstore bundles, right or wrong on purpose
``sigstore``    a private Sigstore: keyless signatures, trusted roots, a TUF repository, right or wrong on purpose
``push``        uploads what these build to a real registry
``tls``         certificates for simulated hosts
``server``      the HTTP server below all this, and its record of requests
==============  ====================================================================================================

A test of a fault asserts that the fault fired (``fault.fired``): a fault that nobody met shows nothing.
"""
