"""Operators of our own for ONNX Runtime, in C++.

A graph names them as functions, whose bodies are standard operators that compute the same
(``export/rewrites/functions.py``): an installation without them serves every bundle, only slower. They are compiled
when recsys is installed, if there is a C++ compiler.

===================  ============================================  =================================
``IdRows``           ids to rows, by an exact id map               any processor
``StackedIdRows``    the same, by several maps at once             any processor
``BucketInterest``   SDIM's attention to sums of events            any processor
``TopItems``         the best rows of an item table            any processor; faster with AVX2
``TopItemsByBits``   the same, nearly, by codes of few bits    any processor; faster with AVX2
``TopScores``        the best of given scores                  any processor
``AttentionWeight``  DIN's first layer folded for a user's events  int8 bundles; AVX-512 with VNNI
``TargetAttention``  DIN's attention                               int8 bundles; AVX-512 with VNNI
``Head``             two hidden layers and a logit                 int8 bundles; AVX-512 with VNNI
===================  ============================================  =================================

AVX-512 with VNNI: Intel's servers since 2019, AMD's since 2022.

``table_guard.cpp`` of the same library is no operator: it keeps a process alive whose mapped tables are cut short
(``serving/inference/mapped_pages.py``). Nor is ``recsys_fence``, which item columns need where processors reorder.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import logging
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

Operators = Literal["auto", "standard"]
"""Who computes functions: ``auto``: these operators, where they are; ``standard``: ONNX Runtime's only."""

ANYWHERE = ("IdRows", "StackedIdRows", "BucketInterest", "TopItems", "TopItemsByBits", "TopScores")
WITH_VNNI = ("AttentionWeight", "TargetAttention", "Head")

_log = logging.getLogger("recsys.operators")

_FILE = Path(__file__).parent / "_library"


def use_operators(options: Any, operators: Operators = "auto") -> bool:
    """Let sessions of these ``SessionOptions`` have the operators that run here; whether there are any.

    ONNX Runtime's own products of 8 bits then add up without overflow: on x86-64 without VNNI they are made of pairs
    that are added in 16 bits, which saturate, unless it is asked for precision. It changes constant weights only;
    weights that come as they are must have 7 bits (:mod:`recsys.export.int8`).
    """
    options.add_session_config_entry("session.x64quantprecision", "1")
    path = library()
    if operators == "standard" or path is None:
        return False
    options.register_custom_ops_library(str(path))
    return True


def run_here() -> tuple[str, ...]:
    """The operators that were compiled and that this processor can run."""
    if library() is None:
        return ()
    return (*ANYWHERE, *WITH_VNNI) if has_vnni() else ANYWHERE


@cache
def library() -> Path | None:
    """The compiled operators, if there are any and they load."""
    files = [_FILE.with_name(_FILE.name + suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((file for file in files if file.is_file()), None)
    try:
        return path if path is None or ctypes.CDLL(str(path)) else None
    except OSError as error:  # compiled against another C library, for one
        _log.warning("recsys's operators are not used: %s", error)
        return None


@cache
def has_vnni() -> bool:
    """True if this processor has AVX-512 with VNNI; False where nothing was compiled."""
    path = library()
    return path is not None and bool(ctypes.CDLL(str(path)).recsys_has_vnni())


def memory_fence() -> None:
    """Let no read or write pass from one side of the call to the other, as seen by processes that share the memory.

    On x86-64 none does that this is used for; elsewhere a library that was not compiled leaves a lock, which orders as
    much as locks do.
    """
    _fence()()


@cache
def _fence() -> Callable[[], object]:
    path = library()
    if path is not None:
        fence: Callable[[], object] = ctypes.PyDLL(str(path)).recsys_fence
        return fence
    lock = threading.Lock()

    def by_lock() -> None:
        with lock:
            pass

    return by_lock


def rows_scored() -> int | None:
    """Rows of which the last search in this thread read the vectors; None where nothing was compiled.

    With codes these are the rows whose bounds reach the best. Of a graph that runs on one thread, the caller's.
    """
    path = library()
    if path is None:
        return None
    count = ctypes.CDLL(str(path)).recsys_rows_scored
    count.restype = ctypes.c_int64
    return int(count())
