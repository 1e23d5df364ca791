"""Names that stand in folders and packages."""

from __future__ import annotations

# Files of a contract's folder.
CONTRACT = "contract.json"
PROGRAM = "model.pt2"
# Keys of a package's metadata: the contract that it was made from, and its digest.
CONTRACT_KEY = "com.ane-passes.contract"
DIGEST_KEY = "com.ane-passes.contract.sha256"
