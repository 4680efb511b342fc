"""Where the time of a run goes, and what to do about it."""
import time

ORDER = ("data wait", "compute", "evaluation", "logging", "saving", "other")
ADVICE = {"data wait": "raise data_loader.num_workers or use the batched path (ArrayDataset)",
          "logging": "raise trainer.args.log_every", "saving": "save less often: trainer.args.checkpoint_every"}
ADVISE_ABOVE = 0.2  # of the time; from there on advice is given


class Timers:
    """Where the host's time goes: what lies between two calls of `record` belongs to the name that the second one gives.

    Nobody waits for the device: what it computes shows where the host reads a result, which the caller counts as compute.
    """

    def __init__(self):
        self.total_s: dict[str, float] = {}
        self._reported_s: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """What came before belongs to nothing."""
        self._last = time.perf_counter()

    def record(self, name: str) -> None:
        now = time.perf_counter()
        self.total_s[name] = self.total_s.get(name, 0.0) + now - self._last
        self._last = now

    def recent(self) -> dict[str, float]:
        """Seconds by name since it was asked last."""
        reported, self._reported_s = self._reported_s, dict(self.total_s)
        return {name: total - reported.get(name, 0.0) for name, total in self.total_s.items()}


def describe_times(seconds_of: dict[str, float]) -> str:
    """`data wait 31 %, compute 62 %, logging 2 %, saving 5 %`; what is below half a percent is left out."""
    fractions = {name: round(100 * fraction) for name, fraction in _fractions(seconds_of).items()}
    return ", ".join(f"{name} {fraction} %" for name, fraction in fractions.items() if fraction)


def advice(seconds_of: dict[str, float]) -> str | None:
    """What would help where much of the time goes into other things than computing; None where it does not."""
    wasted = {name: fraction for name, fraction in _fractions(seconds_of).items() if name in ADVICE}
    worst = max(wasted, key=wasted.get, default=None)
    return ADVICE[worst] if worst and wasted[worst] >= ADVISE_ABOVE else None


def _fractions(seconds_of: dict[str, float]) -> dict[str, float]:
    whole = sum(seconds_of.values()) or 1.0
    return {name: seconds_of[name] / whole for name in ORDER if name in seconds_of}
