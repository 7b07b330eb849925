"""Serves until ^C, SIGTERM or, with `--until-eof`, the end of the standard input. Prints its URL once it has started."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.s3_endpoint.latency import Latency
from benchmarks.s3_endpoint.objects import Bucket
from benchmarks.s3_endpoint.server import AWS_LIMITS, Connection, Endpoint


async def serve(endpoint: Endpoint, port: int, *, until_eof: bool) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    if until_eof:
        loop.add_reader(sys.stdin.fileno(), lambda: over.set() if not sys.stdin.buffer.read1(1) else None)
    # Workers connect all at once: a short queue would refuse some, for a second each.
    server = await loop.create_server(lambda: Connection(endpoint), "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await over.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="s3_endpoint", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 for any free port")
    parser.add_argument("--latency", choices=("aws", "none"), default="aws")
    parser.add_argument("--limits", choices=("aws", "none"), default="none", help="503 SlowDown above S3's rates")
    parser.add_argument("--seed", type=int, default=1, help="of the latencies")
    parser.add_argument("--bucket", default="bench", help="create this bucket")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a line there for each request")
    parser.add_argument("--until-eof", action="store_true", help="serve until the standard input ends")
    options = parser.parse_args()
    with ExitStack() as stack:
        trace = None if options.trace is None else stack.enter_context(options.trace.open("w", encoding="utf-8"))
        limits = AWS_LIMITS if options.limits == "aws" else None
        endpoint = Endpoint(Latency(options.latency, options.seed), limits, trace)
        endpoint.service.buckets[options.bucket] = Bucket()
        gc.freeze()
        asyncio.run(serve(endpoint, options.port, until_eof=options.until_eof))


if __name__ == "__main__":
    main()
