"""Where a driven browser may go: named hosts that all lead to ports of this machine, and nowhere else.

Three fences behind each other: an address is checked before the agent goes there; every request of a page is checked
when it is made; and the browser resolves no name but the allowed ones. Addresses that pages see hold names and no
port (``http://shop.test/``), so that recordings do not depend on the port.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from rlvr_lib.artifacts import UserError

ENDING = ".test"  # reserved by RFC 2606: never a real host
BLANK = "about:blank"
LONGEST_ADDRESS = 2000
SWITCHES = (
    "--disable-gpu",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-smooth-scrolling",
)


class Fence:
    """Hosts by name (``shop.test``) with the loopback port that answers for each."""

    def __init__(self, hosts: Mapping[str, int]):
        for host, port in hosts.items():
            if not host.endswith(ENDING) or not host.replace(".", "").replace("-", "").isalnum():
                raise UserError(f"a driven browser goes to names ending in {ENDING} only, not to {host!r}")
            if not 0 < port < 65536:
                raise UserError(f"{host}: no such port: {port}")
        self.hosts = dict(hosts)

    @property
    def switches(self) -> list[str]:
        """Command-line switches: allowed names lead to this machine, all others nowhere."""
        rules = [f"MAP {host} 127.0.0.1:{port}" for host, port in self.hosts.items()]
        return [*SWITCHES, f"--host-resolver-rules={','.join([*rules, 'MAP * ~NOTFOUND'])}"]

    def allows(self, url: str) -> bool:
        """Plain http to an allowed host on its default port, without a user name."""
        if len(url) > LONGEST_ADDRESS:
            return False
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return False
        return parts.scheme == "http" and parts.netloc == parts.hostname and port is None and parts.netloc in self.hosts

    def guard(self, context: Any) -> None:
        """Stop everything else that pages of a Playwright context ask for, web sockets too; dismiss and refuse."""
        context.route("**/*", self._pass_or_abort)
        context.route_web_socket("**/*", lambda socket: socket.close())
        context.on("page", _close_popup)

    def _pass_or_abort(self, route: Any) -> None:
        """``aborted`` leaves the page where it is; other codes would show an error page."""
        if self.allows(route.request.url):
            route.continue_()
        else:
            route.abort("aborted")


def guard_page(page: Any) -> None:
    """Dialogs are dismissed, downloads cancelled, file choosers left unanswered."""
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.on("download", lambda download: download.cancel())
    page.on("filechooser", lambda chooser: None)


def _close_popup(page: Any) -> None:
    """Windows that a page opened are closed at once; tabs of the agent's own have no opener."""
    if page.opener() is not None:
        page.close()


__all__ = ["BLANK", "Fence", "guard_page"]
