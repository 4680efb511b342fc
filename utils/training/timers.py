"""Where the time of a run is spent, and advice on how to save it."""
import time

ORDER = ("data wait", "compute", "evaluation", "logging", "saving", "other")
ADVICE = {"data wait": "raise data_loader.num_workers if there are more cores; docs/speed.md has other ways",
          "logging": "raise trainer.args.log_every",
          "saving": "save less often: trainer.args.checkpoint_every"}
ADVISE_ABOVE = 0.2  # fraction of the time from which on advice is given
WAITS_ABOVE = 0.3  # fraction of an epoch that is a remark in its line


class Timers:
    """Measures host time. The time between two calls of `record` counts for the name in the second call.

    It never waits for the device: callers count the wait for a result as compute.
    """

    def __init__(self):
        self.total_s: dict[str, float] = {}
        self._reported_s: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Starts the clock: the time before this call counts for no name."""
        self._last = time.perf_counter()

    def record(self, name: str) -> None:
        now = time.perf_counter()
        self.total_s[name] = self.total_s.get(name, 0.0) + now - self._last
        self._last = now

    def recent(self) -> dict[str, float]:
        """Returns the seconds for each name since the last call."""
        reported, self._reported_s = self._reported_s, dict(self.total_s)
        return {name: total - reported.get(name, 0.0) for name, total in self.total_s.items()}


def describe_times(seconds_of: dict[str, float]) -> str:
    """Formats `data wait 31 %, compute 62 %, logging 2 %, saving 5 %`; skips values below half a percent."""
    fractions = {name: round(100 * fraction) for name, fraction in _fractions(seconds_of).items()}
    return ", ".join(f"{name} {fraction} %" for name, fraction in fractions.items() if fraction)


def data_wait(seconds_of: dict[str, float]) -> str | None:
    """Returns `data wait 45 %` if more than 30 % of the time was spent so, else None."""
    fraction = _fractions(seconds_of).get("data wait", 0.0)
    return f"data wait {100 * fraction:.0f} %" if fraction > WAITS_ABOVE else None


def advice(seconds_of: dict[str, float]) -> str | None:
    """Returns advice if much time is spent on other things than compute, else None."""
    wasted = {name: fraction for name, fraction in _fractions(seconds_of).items() if name in ADVICE}
    worst = max(wasted, key=wasted.get, default=None)
    return ADVICE[worst] if worst and wasted[worst] >= ADVISE_ABOVE else None


def _fractions(seconds_of: dict[str, float]) -> dict[str, float]:
    whole = sum(seconds_of.values()) or 1.0
    return {name: seconds_of[name] / whole for name in ORDER if name in seconds_of}
