"""Fetch many pages from a site that wants to see few requests at once, and again those that it refuses.

python examples/scraping.py [addresses]

Without addresses it fetches the pages of a small site that it serves itself, which answers "busy" to each third request.
"""

import itertools
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import urlopen

from starburst_executor import Limit, StarburstExecutor

N_PAGES = 24
requests = itertools.count(1)


class Site(BaseHTTPRequestHandler):
    """Pages with a title each."""

    def do_GET(self):
        if next(requests) % 3 == 0:
            self.send_error(503, "busy")
            return
        body = f"<title>Page {self.path.strip('/')}</title>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Be quiet."""


def title_of(address):
    """Fetch a page and return its title."""
    with urlopen(address, timeout=30) as answer:
        page = answer.read().decode()
    return re.search("<title>(.*?)</title>", page)[1]


def main(addresses):
    with StarburstExecutor(workers=4) as ex:
        # Two requests at once, however many workers there are; a refused one is tried again a little later.
        polite = ex.options(limit=Limit("site", 2), timeout=60, retries=8, retry_on=(HTTPError,), backoff=(0.05, 2, 1))
        futures = [polite.submit(title_of, address) for address in addresses]
        titles = [future.result() for future in futures]
        n_refused = sum(len(future.attempts) > 0 for future in futures)
    print(f"{len(titles)} pages, from {titles[0]!r} to {titles[-1]!r}; {n_refused} were refused at first")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1:])
    else:
        with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            main([f"http://127.0.0.1:{server.server_port}/{number}" for number in range(N_PAGES)])
            server.shutdown()
