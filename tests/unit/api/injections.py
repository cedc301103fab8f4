"""Injections for every parameter: SQL, Redis, NATS, metric labels, headers and logs.

Each contains `MARK`, so that a test can search for it where it must not appear.
"""

from __future__ import annotations

MARK = "evil7"
PAYLOADS = (
    f"{MARK}' OR 1=1 --",
    f"{MARK}'; DROP TABLE raw_swaps; --",
    f'{MARK}") UNION SELECT name FROM system.users --',
    f"{MARK}\\' OR \\'1\\'=\\'1",
    f"%({MARK})s {{{MARK}:String}} %s",
    f"{MARK}\r\nFLUSHALL\r\n",
    f"*1\r\n$8\r\nFLUSHALL\r\n{MARK}",
    f"{MARK}\r\nPUB swaps.heartbeat.0 2\r\n{{}}\r\n",
    f"{MARK}.>",
    f"{MARK} *",
    f"{MARK}\x00",
    f'{MARK}"}} 1\nswaps_{MARK}_total 1\n#',
    f'{MARK}\n{{"event": "forged"}}',
    f"{MARK}\u2028\u202e\ufeff",
    f"../../{MARK}/../etc/passwd",
    f"{{{{ {MARK} }}}}${{{MARK}}}",
    f"ethereum:{MARK}' OR '1'='1",
    f"ethereum:{MARK}\r\nX-Injected: 1",
    f"ethereum:{MARK}.*.>",
)

# Each route with its parameters; `{}` stands for the token id in a path.
PARAMETERS = {
    "/api/overview": (
        "window", "sort", "order", "chain", "min_volume_usd", "min_trades", "q", "limit", "cursor",
    ),
    "/api/tokens/stats": ("ids",),
    "/api/tokens/{}/stats": (),
    "/api/tokens/{}/trades": ("from", "to", "limit", "side", "cursor"),
    "/api/tokens/{}/candles": ("interval", "from", "to", "limit"),
    "/api/tokens/{}/daily": ("from", "to"),
    "/api/status": (),
    "/api/{}": (),
}  # fmt: skip
