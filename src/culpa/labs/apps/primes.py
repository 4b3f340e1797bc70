"""How many primes there are below a number, for `serve.py`: `primes.py BELOW`.

/by_division   tries every divisor of every number
/by_sieve      crosses multiples out, a slice at a time
"""

from __future__ import annotations

from collections.abc import Callable


def is_prime(number: int) -> bool:
    """Try all divisors up to the square root."""
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 1
    return number > 1


def by_division(below: int) -> int:
    """Ask about each number."""
    return sum(1 for number in range(below) if is_prime(number))


def by_sieve(below: int) -> int:
    """Sieve of Eratosthenes."""
    marks = bytearray([1]) * below
    marks[:2] = bytes(2)
    divisor = 2
    while divisor * divisor < below:
        if marks[divisor]:
            marks[divisor * divisor :: divisor] = bytes(len(range(divisor * divisor, below, divisor)))
        divisor += 1
    return sum(marks)


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """Two ways to one figure."""
    below = int(arguments[0])
    ways = {"by_division": by_division, "by_sieve": by_sieve}

    def answer(path: str) -> str | None:
        return f"{ways[path](below)} primes below {below}" if path in ways else None

    return answer
