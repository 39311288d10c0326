"""knocker.yaml: read as a whole, or refused with every fault and its place."""

from knocker.settings.model import Deny, Security, Server, Settings, Storage
from knocker.settings.reading import Faulty, load, parse

__all__ = ["Deny", "Faulty", "Security", "Server", "Settings", "Storage", "load", "parse"]
