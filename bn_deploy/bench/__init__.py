"""How long a network takes, with the evidence kept.

    candidate.py    what is timed, as a specification that another process can open
    options.py      how long, on what, in which regime and scenario
    replicate.py    a whole measurement: fresh processes one after the other, their samples put together
    processes.py      starts one and reads what it sends
    job.py worker.py  what it is told, and what it does
    measure.py        the clock: candidates in alternating blocks, the same lines for every backend
    arrivals.py       calls that arrive at random
    caches.py         calls that find nothing in the caches
    memory.py         what the process holds
    rows.py         one row of results: the raw samples, process by process
    stats.py        percentiles that the samples can support, with intervals
    intervals.py    intervals over a handful of processes
    verdict.py      FASTER, SLOWER, SAME, UNDECIDED
    gate.py         the same against an earlier measurement
    threads.py      how many threads suit a runtime
    environment.py  the machine and the versions, and whether two of them may be compared
    conditions.py   how the machine was meanwhile
    record.py       latency.json
    fields.py       reading a file strictly

The unit of replication is the process. In the regime *warm*, each candidate is called at least ten times in a
row on the same inputs, so its code and its weights are mostly in the caches; a service that is called now and
then is slower than that, and more like *cold*.
"""
