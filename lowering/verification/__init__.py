"""Holds a finished package against the model it was made from, and finds where they part."""

from lowering.verification.original import Original, VerificationError
from lowering.verification.parity import Parity, Thresholds
from lowering.verification.probing import Probe, probe
from lowering.verification.result import Divergence, PassFault, Verification
from lowering.verification.verifier import verify

__all__ = [
    "Divergence",
    "Original",
    "Parity",
    "PassFault",
    "Probe",
    "Thresholds",
    "Verification",
    "VerificationError",
    "probe",
    "verify",
]
