"""How long a network takes, with the evidence kept.

    measure.py      the clock: candidates timed in alternating blocks, the same lines for every backend
    stats.py        one row of results: raw samples, and the percentiles that they can support
    environment.py  the machine and the versions, and whether two of them may be compared
    record.py       latency.json: environment, options, rows, digests of what was timed
    fields.py       reading a file strictly

The regime is *warm*: each candidate is called at least ten times in a row, on the same inputs, so its code
and its weights are mostly in the caches. A service that is called now and then is slower than that.
"""
