"""Programs in C and C++, compiled for the occasion: what their functions are called and where they stand is known."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = """\
#include <execinfo.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static volatile double sink;
#define FUNCTION __attribute__((noinline))
FUNCTION void tell(void) {
    void *found[16];
    int count = backtrace(found, 16);
    for (int i = 1; i < count; i++) printf("%p ", found[i]);
    puts("");
    fflush(stdout);
}
FUNCTION void crunch(long n) {
    for (long i = 0; i < n; i++) sink += i % 7;  // computes
}
FUNCTION void nap(void) {
    struct timespec span = {0, 70000000};
    nanosleep(&span, 0);  // sleeps
    sink++;
}
FUNCTION int stuck(int bytes) {
    char text[400];
    memset(text, bytes, sizeof text);
    tell();
    int got = read(0, text, sizeof text);  // waits
    sink += text[bytes & 7];
    return got + 1;
}
FUNCTION int serve(char kind) {
    if (kind == 'w') return stuck(kind) + 1;
    for (;;) {
        if (kind == 'c') crunch(3000000);
        else nap();
        sink++;
    }
}
int main(int count, char **words) {
    (void)count;
    puts("ready");
    fflush(stdout);
    int result = serve(words[1][0]);
    sink++;
    return result;
}
"""
CPP = """\
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>
#include <vector>
namespace shop {
class Basket {
    std::vector<double> prices;
public:
    __attribute__((noinline)) double price(int n) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += std::sin(i);
        prices.push_back(sum);
        return sum;
    }
    __attribute__((noinline)) void wait(int n) {
        std::this_thread::sleep_for(std::chrono::milliseconds(n));
        prices.push_back(n);
    }
};
}
int main(int, char **words) {
    shop::Basket basket;
    double total = 0;
    std::puts("ready");
    std::fflush(stdout);
    for (;;) {
        if (words[1][0] == 'c') total += basket.price(100000);
        else basket.wait(70);
        if (total < -1e300) return 1;
    }
}
"""


def line(comment: str) -> int:
    """The line of `SOURCE` with this comment."""
    return next(at for at, text in enumerate(SOURCE.split("\n"), 1) if text.endswith(f"// {comment}"))


def compiler(plus: bool = False) -> list[str]:
    """A compiler; the test is skipped, and says so, where there is none."""
    for name in ("c++", "g++", "clang++") if plus else ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++" if plus else "cc"]
    pytest.skip("no C compiler: apt-get install g++, or pip install ziglang")


def compiled(folder: Path, *flags: str, plus: bool = False) -> Path:
    """The program, compiled."""
    source = folder / ("program.cpp" if plus else "program.c")
    source.write_text(CPP if plus else SOURCE)
    program = folder / "the program"
    subprocess.run([*compiler(plus), *flags, "-o", program, source], check=True, cwd=folder)
    return program


@contextlib.contextmanager
def running(program: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """The program, once it said that it is ready; killed at the end."""
    with subprocess.Popen([*prefix, program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == b"ready\n"
            yield child
        finally:
            child.kill()


def wait_until(true: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
