"""Two verdicts on the same evidence: Tagstone's, and sigstore-python's."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

from proxy.policy.patterns import Pattern
from proxy.policy.rules import AttestationBy, Identity, Question, SignatureBy
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.core import Signed
from proxy.verify.cosign import CosignAttestations, CosignSignatures
from proxy.verify.model import Subject, Trusted
from proxy.verify.roots import Demands, Root
from proxy.verify.second import SecondVerdict
from proxy.verify.trust import Key
from storage.reference import Repository
from tests.simulator.sigstore import PrivateSigstore
from tests.simulator.sigstore.bundles import layers_image
from tests.simulator.sigstore.cases import IMAGE, PREDICATE_TYPE, RELEASE, Form
from tests.simulator.sigstore.faults import Fault
from tests.unit.verify.evidence import document

ROOT = "private"
LIMITS = Limits()
SIGSTORE = PrivateSigstore()
WITHOUT_LOG = PrivateSigstore("github", github=True)
#: When evidence is judged: long after every certificate of the time of signing has expired.
JUDGED = SIGSTORE.now + timedelta(days=400)
SUBJECT = Subject(Repository.of("registry.test", "team/app"), IMAGE.digest, IMAGE.body)


class OursAlone(SecondVerdict):
    """Stands where sigstore-python is asked, and does not ask."""

    def check(self, signed: Signed, root: Root) -> str:
        """Nothing."""
        del signed, root
        return "sigstore-python is not asked"


def services(form: Form) -> PrivateSigstore:
    """Who makes evidence of this form."""
    return SIGSTORE if form.trust == "sigstore" else WITHOUT_LOG


@lru_cache(maxsize=128)
def _root(body: bytes, log: bool) -> Root:
    return Root.load(ROOT, body, Demands(log=log, sct=log, timestamp=not log))


def _trusted(form: Form, fault: Fault | None) -> Root:
    made_by = services(form)
    if form.trust != "own CA":
        return _root(made_by.trusted_root(fault), form.trust == "sigstore")
    demands = Demands(log=False, sct=False, timestamp=fault != "no TSA")
    return Root.of_ca(ROOT, [made_by.own_ca(fault)], demands, [] if fault == "no TSA" else [made_by.own_tsa(fault)])


def ours(form: Form, fault: Fault | None = None, *, second: SecondVerdict | None = None) -> Evidence | str:
    """Tagstone's verdict, as a rule would get it; text where the trusted root itself is refused."""
    try:
        root = _trusted(form, fault)
    except ValueError as error:
        return str(error)
    second = second or OursAlone()
    by: str | Identity = Identity(ROOT, form.how.issuer, Pattern.compile(form.how.identity)) if form.keyless else RELEASE.name
    question: Question = AttestationBy(PREDICATE_TYPE, by) if form.content == "cosign attestation" else SignatureBy(by)
    keys = {RELEASE.name: Key.load(RELEASE.name, RELEASE.public_pem, SIGSTORE.now, SIGSTORE.now, root=ROOT)}
    trusted = Trusted(keys, {ROOT: root})
    made = form.make(services(form), fault)
    if isinstance(made, bytes):
        found = SigstoreBundles(LIMITS, second).judge_bytes("a file", made, SUBJECT, [question], trusted, JUDGED)
    else:
        verifiers = (CosignSignatures(LIMITS, second), CosignAttestations(LIMITS, second))
        evidence = document(layers_image([made]))
        (verifier,) = (each for each in verifiers if each.judges(evidence))
        found = verifier.judge(evidence, SUBJECT, [question], trusted, JUDGED)
    (judged,) = found
    return judged


def accepted(verdict: Evidence | str) -> bool:
    """Whether ours is a yes."""
    return isinstance(verdict, Evidence) and verdict.accepted


def reason(verdict: Evidence | str) -> str:
    """What ours says."""
    return verdict if isinstance(verdict, str) else verdict.reason


def theirs(form: Form, fault: Fault | None = None) -> str | None:
    """Why sigstore-python refuses a bundle, None when it accepts it. Whatever it raises is a refusal."""
    # Large, and not needed by those who only hear our own verdict.
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity as SigstoreIdentity
    from sigstore_models.trustroot.v1 import TrustedRoot as TrustedRootModel

    made_by = services(form)
    made = form.make(made_by, fault)
    assert isinstance(made, bytes), "it reads bundles only"
    policy = SigstoreIdentity(identity=form.how.identity, issuer=form.how.issuer)
    try:
        verifier = Verifier(trusted_root=TrustedRoot(TrustedRootModel.from_json(made_by.trusted_root(fault))))
        bundle = Bundle.from_json(made)
        if form.content == "message":
            verifier.verify_artifact(IMAGE.body, bundle, policy)
        else:
            verifier.verify_dsse(bundle, policy)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
