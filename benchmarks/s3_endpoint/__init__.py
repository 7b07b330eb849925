"""An S3 of the benchmarks' own: in memory, in a process of its own, as slow as Amazon's and cheap to run.

    python benchmarks/s3_endpoint --port 0 --latency aws            prints its URL, serves until ^C

What it has is what the store and its peers ask for: objects with conditions and ranges, listings, deletions, multipart
uploads, errors in S3's XML. One thread does everything, so checking a condition and writing is one step. It believes
every signature and forgets everything when it ends: nothing to keep data in.

    answers.py    a request to an answer         objects.py    what is stored       latency.py    how long it takes
    server.py     HTTP, counters, limits         process.py    starts it from a program
"""
