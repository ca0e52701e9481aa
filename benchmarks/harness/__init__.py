"""Parts that benchmarks share: command line, measuring processes, servers, reference models. None is run by itself."""
