"""A private Sigstore in pure Python, without a network: everything that keyless signatures need, right or wrong on purpose.

::

    sigstore = PrivateSigstore()                                          # its clock: sigstore.now = …
    sigstore.write_trusted_root(tmp_path / "trusted_root.json")
    registry.refer("team/app", sigstore.signature_referrer(image))        # cosign v3: a bundle as a referrer
    registry.add("team/app", sigstore.signature_image(image.digest), signature_tag(image.digest))       # cosign v2
    sigstore.signature_bundle(image.digest, Signing(rekor=2), fault="checkpoint by another key")

Every builder takes a ``fault`` by name (:mod:`tests.simulator.sigstore.faults`): what comes out is wrong in that way and in no
other. Hand the same fault to :meth:`PrivateSigstore.trusted_root`, because some are in what is trusted.

=============  =====================================================================================================
``root``       :class:`PrivateSigstore`: all services with one clock, ``trusted_root.json``
``bundles``    :class:`Signing` (how something is signed), bundles v0.1 – v0.3, cosign v2 signatures and attestations
``ca``         the certificate authority and its certificate transparency log
``rekor``      transparency logs, v1 and v2
``tsa``        the timestamp authority
``tuf``        a TUF repository as a folder
``cases``      each kind of evidence with each fault that it can have
``faults``     what can be wrong
``der``        DER by hand
=============  =====================================================================================================
"""

from tests.simulator.sigstore.bundles import Signing, attestation_tag, statement
from tests.simulator.sigstore.faults import Fault
from tests.simulator.sigstore.root import SIGNING_TIME, PrivateSigstore

__all__ = ["SIGNING_TIME", "Fault", "PrivateSigstore", "Signing", "attestation_tag", "statement"]
