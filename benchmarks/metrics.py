"""The table of what is measured: key, words, unit, and which way is better. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """`key` is its name in JSON, `short` heads a column, `more_is_better` says how to read it."""

    key: str
    short: str
    words: str
    unit: str
    more_is_better: bool


METRICS = {
    metric.key: metric
    for metric in (
        Metric("tcp1_gbit", "TCP 1", "TCP, one stream", "Gbit/s", more_is_better=True),
        Metric("tcp4_gbit", "TCP 4", "TCP, four streams", "Gbit/s", more_is_better=True),
        Metric("cpu_s_per_gb", "CPU s/GB", "CPU of both daemons", "s/GB", more_is_better=False),
        Metric("udp64_kpps", "UDP kpps", "64-byte UDP packets that arrive", "thousand/s", more_is_better=True),
        Metric("rtt_idle_ms", "RTT idle", "Round trip, idle, median", "ms", more_is_better=False),
        Metric("rtt_loaded_ms", "RTT load", "Round trip under one TCP stream, median", "ms", more_is_better=False),
        Metric("rtt_loaded_p99_ms", "load p99", "Round trip under one TCP stream, p99", "ms", more_is_better=False),
        Metric("rss_idle_mb", "MB idle", "Memory of one end, idle", "MB", more_is_better=False),
        Metric("rss_mb", "MB after", "Memory of one end, after the load", "MB", more_is_better=False),
    )
}
