"""Why a knock is refused, in the words that its sender may see (contract 3.3)."""

from __future__ import annotations

from enum import Enum


class Refusal(Enum):
    """The closed set of refusals; the value is the text of the answer."""

    NO_CLIENT = "Could not determine client IP."
    FORGED = "Forwarded headers from a peer that is not a trusted proxy."
    MALFORMED = "Malformed JSON request body."
    NOT_AN_OBJECT = "Request body must be a JSON object."
    INVALID_DATA = "Invalid request data."
    INVALID_TTL = "Invalid TTL specified. Must be a positive integer."
    INVALID_ADDRESS = "Invalid IP address or CIDR notation in request body."
    TOO_BROAD = "CIDR range is too broad."
    BAD_KEY = "Invalid or missing API key."
    NO_PERMISSION = "API key lacks remote whitelist permission."
    METHOD = "Method not allowed."
    TOO_LARGE = "Request body too large."
    CONTENT_TYPE = "Request body must be JSON."
    NOT_STORED = "The whitelist could not be stored."
    CLOSED_NOT_STORED = "Closed, but not stored."
    FULL = "The whitelist is full."
    LIMITED = "Too many knock attempts."
    NO_GRANT = "No such grant."
    NO_CANARY = "No such canary."


class Refused(Exception):
    """A knock that is not granted.

    `why` is for the admin's log alone: what happened and which setting mends it. `retry_after`: whole seconds
    after which another attempt may do better, 0 where that cannot be said.
    """

    def __init__(self, refusal: Refusal, why: str = "", retry_after: int = 0) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.why = why
        self.retry_after = retry_after
