"""A library that reports progress without ``configure``, settings or output.

In a program without ``configure`` the calls do nothing and cost almost nothing. In a configured
program, such as ``main`` here, they are levels below the current level of the program. The name of
the library is the instrumentation scope of its spans.

    python examples/library.py
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import otel_progress as progress

tracer = progress.get_tracer("primes")


@tracer.level("sieve")
def primes_below(limit: int) -> list[int]:
    """Return the primes below ``limit``. Each call is a level."""
    is_prime = bytearray([1]) * limit
    is_prime[:2] = b"\0\0"
    candidates = range(2, int(limit**0.5) + 1)
    progress.current_level().update(total=len(candidates), limit=limit)
    for candidate in candidates:
        if is_prime[candidate]:
            is_prime[candidate * candidate :: candidate] = bytes(
                len(range(candidate * candidate, limit, candidate))
            )
        progress.current_level().increment()
    return [number for number, prime in enumerate(is_prime) if prime]


def main() -> None:
    """Use the library twice: without and with configuration."""
    count = len(primes_below(1_000))
    print(f"without configure: {count} primes, recorded: {progress.current_level().recording}")
    with progress.configure(service_name="library-example"):
        with progress.operation("number_theory", "Primes", id="primes", total=2) as op:
            for limit in (10_000, 100_000):
                op.update(message=f"below {limit}")
                primes_below(limit)
        done = progress.get_operation("primes")
        if done is not None:
            for level in done.levels:
                limit = level.metadata["limit"]
                print(f"{level.path}: {level.current}/{level.total}, {level.status}, limit {limit}")


if __name__ == "__main__":
    main()
