"""A server with S3's interface, for benchmarks: in memory, in its own process, with Amazon's latencies, and cheap to run.

    python benchmarks/s3_endpoint --port 0 --latency aws            prints its URL, serves until ^C

It implements the requests of the store and its peers: objects with conditions and ranges, listings, deletions, multipart
uploads, errors in S3's XML. One thread does everything, so checking a condition and writing is one step. It accepts
every signature and loses everything when it ends: it must not hold data of value.

    answers.py    a request to an answer         objects.py    what is stored       latency.py    how long it takes
    server.py     HTTP, counters, limits         process.py    starts it from a program
"""
