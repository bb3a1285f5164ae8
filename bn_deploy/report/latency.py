"""Measurements of latency as plain text: how long, how sure, and what may be concluded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bn_deploy.bench.gate import Gate
from bn_deploy.bench.intervals import FEWEST
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.rows import LatencyResult
from bn_deploy.bench.stats import FENCE, PERCENTILES, Quantile
from bn_deploy.bench.verdict import Comparison, Ratio, best_batches, noise, told
from bn_deploy.report.layout import counted, milliseconds, table, wrapped


def latency_text(
    record: LatencyRecord, unavailable: Mapping[str, str], refused: Mapping[str, str] | None = None
) -> str:
    """Every row of a measurement, the verdicts, the noise, and what could not be measured."""
    found = told(record.results, record.options.scenario)
    parts = [
        *_warnings(record, refused or {}),
        _rows(record),
        "",
        _verdicts(found),
        "",
        *_noise(record),
        *_notes(record),
        measured_on(record),
        *(wrapped(f"{name}: not measured: {reason}") for name, reason in unavailable.items()),
    ]
    return "\n".join(parts)


def _warnings(record: LatencyRecord, refused: Mapping[str, str]) -> list[str]:
    found = [f"!! not timed, because it does not compute the same: {n}: {why}" for n, why in refused.items()]
    if record.interrupted:
        found.append("!! interrupted: these are the processes and batch sizes that were done")
    if record.options.quick:
        done = max(len(row.runs) for row in record.results)
        found.append(f"!! quick: {_processes(done)}, which shows the order of magnitude and decides nothing")
    if doubtful := sorted(name for name, by in record.parity.items() if by == "unverified"):
        found.append(f"!! nobody checked that these compute the same: {', '.join(doubtful)}")
    return [wrapped(line) for line in found]


def _rows(record: LatencyRecord) -> str:
    offline, rate = record.options.scenario == "offline", record.options.rate_per_s
    shown = best_batches(record.results) if offline else record.results
    ways = sorted({how(r) for r in shown})
    pace = "as they arrive" if rate else "one caller who waits, slow calls in full"
    rows = [
        (
            r.name,
            *([how(r)] if len(ways) > 1 else []),
            str(r.batch),
            _median(r),
            *(_quantile(r, r.percentile(p)) for p in PERCENTILES[1:]),
            f"{(rate * r.batch if rate else r.throughput_per_s):,.0f}",
            f"{len(r.ascending_s):,}",
            f"{r.outliers / len(r.ascending_s):.1%}",
        )
        for r in shown
    ]
    columns = ["backend, model", *(["what is timed"] if len(ways) > 1 else [])]
    left = len(columns)
    columns += ["best batch" if offline else "batch", "p50 ms [95 %]"]
    columns += [f"p{p} ms" for p in PERCENTILES[1:]]
    return "\n".join(
        [
            *([f"timed: {ways[0]}"] if len(ways) == 1 else []),
            table([*columns, "rows/s", "calls", "far out"], rows, left=left),
            wrapped(
                "95 %: over processes, where there are enough; "
                f"rows/s: {pace}; far out: beyond {FENCE:g} interquartile "
                "ranges from the quartiles, counted in every figure; n/a: too few calls for that percentile"
            ),
        ]
    )


def _median(row: LatencyResult) -> str:
    """With the interval over processes; that of the calls alone, where there are too few processes."""
    found = row.percentile(50)
    if found is None:
        return _quantile(row, found)
    low_s, high_s = row.process_interval_s or (found.low_s, found.high_s)
    return f"{milliseconds(found.value_s)} [{milliseconds(low_s)}, {milliseconds(high_s)}]"


def _quantile(row: LatencyResult, found: Quantile | None) -> str:
    if found is None:
        return "overloaded" if row.unserved else "n/a"
    return milliseconds(found.value_s)


def _verdicts(found: Sequence[Comparison]) -> str:
    if not found:
        return "nothing to compare: one candidate"
    plain = [(f"{c.before} -> {c.after}", str(c.batch), f"{1 / c.ratio.value:.2f}") for c in found]
    columns = ["before -> after", "batch", "times as fast"]
    if all(c.verdict is None for c in found):
        return f"{table(columns, plain)}\n" + wrapped(
            f"no verdicts: a 95 % interval needs {FEWEST} processes, and there are "
            f"{max(c.ratio.processes for c in found)}"
        )
    rows = [
        (*start, _interval(c.ratio), c.verdict.value if c.verdict else "n/a", f"{c.floor:.1%}")
        for start, c in zip(plain, found, strict=True)
    ]
    text = table([*columns, "95 %", "after is", "floor"], rows)
    return f"{text}\n" + wrapped(
        f"over {_processes(max(c.ratio.processes for c in found))}; FASTER and SLOWER need the whole "
        f"interval beyond the floor; {counted(len(found), 'interval')}, each of which misses in 1 of 20 cases"
    )


def _processes(number: int) -> str:
    return f"{number} process{'es' * (number != 1)}"


def _interval(ratio: Ratio) -> str:
    """The interval of "times as fast", whose ends change places with those of the time."""
    if ratio.low is None or ratio.high is None:
        return "n/a"
    return f"[{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"


def _noise(record: LatencyRecord) -> list[str]:
    """The network that was timed against itself."""
    seen = noise(record.results)
    if not seen:
        return []
    told_of = [
        f"batch {c.batch} {1 / c.ratio.value:.3f}"
        + (f" {_interval(c.ratio)} {c.verdict.value}" if c.verdict else "")
        for c in seen
    ]
    each = ", ".join(told_of)
    return [wrapped(f"noise floor: {seen[0].before} against itself, opened twice in each process: {each}")]


def _notes(record: LatencyRecord) -> list[str]:
    lines = [f"timing itself adds {record.overhead_s * 1e6:.2f} us to each call"]
    for backend, choice in record.choices.items():
        tried = ", ".join(
            f"{counted(one['threads'], 'thread')}{' spinning' if one['spinning'] else ''} "
            f"{milliseconds(one['median_s'])}"
            for one in choice["tried"]
        )
        lines.append(
            f"{backend}: {counted(choice['threads'], 'thread')} chosen; ms a call with {tried or 'n/a'}"
        )
    lines += [
        f"memory of {row.name} in a process of its own: {_megabytes(row.open_bytes)} opened, "
        f"{_megabytes(row.run_bytes)} after a call at each batch size, peak {_megabytes(row.peak_bytes)}"
        f"{'' if row.gpu_bytes is None else f'; {_megabytes(row.gpu_bytes)} of the GPU'}"
        for row in record.memory
    ]
    graphless = {row.name: row.no_cuda_graph for row in record.results if row.no_cuda_graph}
    lines += [
        f"!! {name}: without the CUDA graph that was asked for: {why}" for name, why in graphless.items()
    ]
    censuses = {row.name: row.census for row in record.results if row.census and not row.again}
    lines += [
        f"{name} as loaded: {', '.join(f'{n} {op}' for op, n in sorted(census.items()))}"
        for name, census in censuses.items()
    ]
    return [wrapped(line) for line in lines]


def _megabytes(size: int | None) -> str:
    return "n/a" if size is None else f"{size / 1e6:,.0f} MB"


def how(result: LatencyResult) -> str:
    """What was timed, in words: scope, precision, device, threads, TF32, CUDA graph."""
    threads = [counted(result.threads, "thread")] if result.threads else []
    spinning = ["spinning"] if result.spinning and (result.threads or 0) > 1 else []
    tf32 = ["TF32"] if result.tf32 else []
    graph = ["CUDA graph"] if result.cuda_graph else []
    return ", ".join(
        [result.scope, result.precision.value, *tf32, result.device, *threads, *spinning, *graph]
    )


def latency_grid(record: LatencyRecord) -> str:
    """Median latency, a row per backend and model, a column per batch size; a line of verdicts a pair."""
    batches = sorted({r.batch for r in record.results})
    by_row: dict[tuple[str, str], dict[int, LatencyResult]] = {}
    for result in record.results:
        if not result.again:
            by_row.setdefault((result.name, result.scope), {})[result.batch] = result
    rows = [
        (
            *key,
            *(milliseconds(cells[b].p50_s if b in cells else None) for b in batches),
            f"{cells[batches[-1]].throughput_per_s:,.0f}" if batches[-1] in cells else "n/a",
        )
        for key, cells in by_row.items()
    ]
    columns = ["median latency", "scope", *(f"batch {b}, ms" for b in batches), f"images/s at {batches[-1]}"]
    lines: dict[str, list[str]] = {}
    for c in told(record.results, record.options.scenario):
        if c.verdict is not None:
            lines.setdefault(f"{c.before} -> {c.after}", []).append(
                f"{c.verdict.value} {1 / c.ratio.value:.2f} times as fast {_interval(c.ratio)} at {c.batch}"
            )
    verdicts = [wrapped(f"{pair}: {'; '.join(found)}") for pair, found in lines.items()]
    return "\n".join([table(columns, rows, left=2), *verdicts, *_noise(record), measured_on(record)])


def measured_on(record: LatencyRecord) -> str:
    """The machine and its load, in words; times from a machine that was busy with something else say so."""
    env, during = record.environment, record.conditions
    threads = sorted({counted(r.threads, "thread") for r in record.results if r.threads})
    load, cores = env["load_average"], env["usable_cores"]
    versions = (f"{name} {v}" for name, v in env["versions"].items() if v and name != "bn-deploy")
    busy = " (BUSY: expect slower and noisier times than this machine can do)" if _busy(load, cores) else ""
    seen = []
    if during.get("steal_s"):
        seen.append(f"{during['steal_s']:.1f} s stolen by other machines")
    if during.get("cpu_mhz_min"):
        seen.append(
            f"clock {during['cpu_mhz_min']:,.0f} MHz at least, {during['cpu_mhz_mean']:,.0f} on average"
        )
    if during.get("throttle_events"):
        seen.append(f"slowed down for heat {during['throttle_events']:.0f} times")
    return wrapped(
        f"on {env['cpu_model']}, {counted(cores, 'core') if cores else 'unknown cores'}, "
        f"{' and '.join(threads) or 'GPU'} a backend, load average "
        f"{f'{load[0]:.1f}' if load else 'unknown'}{busy}; {''.join(f'{one}; ' for one in seen)}"
        f"{', '.join(versions)}"
    )


def _busy(load: Sequence[float] | None, cores: int | None) -> bool:
    """Whether more wanted to run than there are cores, in the minute before."""
    return bool(load and cores and load[0] > cores)


def gate_text(gate: Gate) -> str:
    """What a comparison with an earlier measurement found."""
    rows = [
        (
            row.name,
            str(row.batch),
            row.verdict.value if row.verdict else "n/a",
            f"{row.ratio.value - 1:+.1%}",
            "n/a"
            if row.ratio.low is None or row.ratio.high is None
            else f"[{row.ratio.low - 1:+.1%}, {row.ratio.high - 1:+.1%}]",
            f"{row.allowed:.1%}",
        )
        for row in gate.rows
    ]
    lines = [table(["backend, model", "batch", "is now", "time", "95 %", "allowed"], rows)]
    lines += [wrapped(f"not compared: {name}") for name in gate.missing]
    lines += [wrapped(f"!! unlike environments: {one}") for one in gate.differences]
    return "\n".join(lines)
