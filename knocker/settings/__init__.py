"""knocker.yaml: read as a whole, or refused with every fault and its place."""

from knocker.settings.model import Deny, Logging, Security, Server, Settings, Storage, Udp, UnixSocket
from knocker.settings.reading import Faulty, chosen_path, load, parse

__all__ = ["Deny", "Faulty", "Logging", "Security", "Server", "Settings", "Storage", "Udp", "UnixSocket"]
__all__ += ["chosen_path", "load", "parse"]
