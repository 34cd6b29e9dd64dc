"""cert-manager, played: Certificates get a Secret with a key pair, and a new one when asked.

Asked is what ``cmctl renew`` does: the status condition Issuing becomes True. The new pair then goes
into the Secret, the revision counts up, and Issuing is taken away.
https://cert-manager.io/docs/reference/cmctl/#renew
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import trustme

from sandbox.kubernetes.controllers import Controllers, condition
from sandbox.kubernetes.resources import CERTIFICATES, SECRETS
from sandbox.kubernetes.store import Event, Object, now, seconds, stamp

_TAKES = 1.0
_HOUR = 3600.0


def hours(duration: str | None, default: float) -> float:
    """Return a duration like ``2160h0m0s`` in hours."""
    head = (duration or "").partition("h")[0]
    return float(head) if head.isdigit() else default


def issue(authority: trustme.CA, certificate: Object, begins: float) -> tuple[dict[str, str], Object]:
    """Return the data of a Secret with a new pair, and the status fields that go with it.

    :param begins: start of the validity, Unix time.
    """
    spec = certificate["spec"]
    ends = begins + hours(spec.get("duration"), 2160) * _HOUR
    renew = ends - hours(spec.get("renewBefore"), 720) * _HOUR
    names = spec.get("dnsNames") or [spec.get("commonName") or certificate["metadata"]["name"]]
    leaf = authority.issue_cert(
        *names,
        not_before=datetime.fromtimestamp(begins, UTC),
        not_after=datetime.fromtimestamp(ends, UTC),
    )
    parts = {
        "tls.crt": b"".join(blob.bytes() for blob in leaf.cert_chain_pems),
        "tls.key": leaf.private_key_pem.bytes(),
        "ca.crt": authority.cert_pem.bytes(),
    }
    data = {name: base64.b64encode(part).decode() for name, part in parts.items()}
    return data, {"notBefore": stamp(begins), "notAfter": stamp(ends), "renewalTime": stamp(renew)}


def secret_for(certificate: Object, data: dict[str, str]) -> Object:
    """Return the Secret that a Certificate keeps its pair in."""
    meta, spec = certificate["metadata"], certificate["spec"]
    issuer = spec.get("issuerRef") or {}
    notes = {
        "cert-manager.io/certificate-name": meta["name"],
        "cert-manager.io/issuer-name": issuer.get("name", ""),
        "cert-manager.io/issuer-kind": issuer.get("kind", "Issuer"),
        "cert-manager.io/alt-names": ",".join(spec.get("dnsNames") or ()),
    }
    named = {"name": spec["secretName"], "namespace": meta["namespace"], "annotations": notes}
    return {"metadata": named, "data": data, "type": "kubernetes.io/tls"}


def ready_condition(certificate: Object, since: str) -> Object:
    """Return the condition of a Certificate that is issued and up to date."""
    return {
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "Certificate is up to date and has not expired",
        "lastTransitionTime": condition(certificate, "Ready").get("lastTransitionTime") or since,
        "observedGeneration": certificate["metadata"].get("generation", 1),
    }


class Certificates:
    """Issues what Certificates ask for.

    :param authority: who signs.
    """

    def __init__(self, controllers: Controllers, authority: trustme.CA) -> None:
        self._controllers, self._store, self._authority = controllers, controllers.store, authority
        self._asked: dict[str, float] = {}
        controllers.register(CERTIFICATES, self.reconcile)
        self._store.listeners.append(self._secret_gone)

    def _secret_gone(self, event: Event) -> None:
        if event.resource is SECRETS and event.type == "DELETED":
            meta = event.new.obj["metadata"]
            for certificate in self._store.objects(CERTIFICATES, meta["namespace"]):
                if certificate["spec"].get("secretName") == meta["name"]:
                    self._controllers.look_at(CERTIFICATES, certificate)

    def reconcile(self, certificate: Object) -> None:
        """Issue a pair a second after it is asked for or found missing."""
        meta, uid = certificate["metadata"], certificate["metadata"]["uid"]
        secret = self._store.find(SECRETS, meta["namespace"], certificate["spec"].get("secretName", ""))
        asked = condition(certificate, "Issuing").get("status") == "True"
        if not certificate["spec"].get("secretName") or (secret and not asked and condition(certificate, "Ready")):
            return
        if uid not in self._asked:
            self._asked[uid] = seconds(now())
            text = "Issuing certificate as Secret does not exist" if not secret else "Renewal was asked for"
            self._controllers.tell(
                CERTIFICATES, certificate, "Issuing", text, source="cert-manager-certificates-trigger"
            )
            self._controllers.look_at(CERTIFICATES, certificate, after=_TAKES)
        elif seconds(now()) - self._asked[uid] >= _TAKES:
            del self._asked[uid]
            self._issue(certificate, secret)
        else:
            self._controllers.look_at(CERTIFICATES, certificate, after=0.2)

    def _issue(self, certificate: Object, secret: Object | None) -> None:
        data, dates = issue(self._authority, certificate, seconds(now()))
        if secret:
            self._store.put(SECRETS, {**secret, "data": {**secret.get("data", {}), **data}})
        else:
            self._controllers.create(SECRETS, secret_for(certificate, data))
        was = certificate.get("status") or {}
        status = {**dates, "revision": was.get("revision", 0) + 1, "conditions": [ready_condition(certificate, now())]}
        self._store.set_status(CERTIFICATES, certificate, status)
        text = "The certificate has been successfully issued"
        self._controllers.tell(CERTIFICATES, certificate, "Issuing", text, source="cert-manager-certificates-issuing")
