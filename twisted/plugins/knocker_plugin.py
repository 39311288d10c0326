"""Makes `knocker` known to twistd and twist; nothing else is imported, so that their --help stays cheap."""

from twisted.application.service import ServiceMaker

knocker = ServiceMaker("Knocker", "knocker.service", "a knock-knock gateway for services behind a proxy", "knocker")
