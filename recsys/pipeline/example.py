"""A settings file to begin with: every key, with its default."""

from __future__ import annotations

from pathlib import Path

from recsys.errors import ConfigError
from recsys.files import write_atomically

EXAMPLE = """\
# A daily loop: recsys pipeline shop.toml     (docs/guides/pipeline.md; paths are relative to this file)
# What is commented out has that default. No secret belongs here: the Redis's URL is in REDIS_URL or REDIS_URL_FILE.

name = "shop"                      # of the model that requests ask for
# folder = "pipeline"              # days, outputs, the page, figures
# zone = "UTC"                     # in which a day ends: Europe/Berlin
# keep_days = 7                    # outputs of so many days are kept

[data]                             # as of `recsys prepare`
log = ["logs/*.jsonl"]
features = "shop.json"
# users = "shop.users.jsonl"       # files with features of users and items
# items = "shop.items.jsonl"
# entities = { store = "stores.csv" }
# labels = ["impressions/*.jsonl"] # labelled impressions become the samples
# requests = []                    # ["requests"]: or what servers showed (recsys serve --log-requests) is the samples
# window = "30m"                   # in which an event makes a shown item positive
# label = "rating>=4"              # or: a rule that labels a row; default: the column label
# negatives = 0                    # or: draw so many for each positive
# negatives_by = "uniform"
# negatives_seed = 0
# holdout = "6h"                   # the newest samples test the model; they are trained on the next day
# timestamp = "timestamp_ms"
# time_unit = "ms"
# ignore = []
# ignore_unknown = false
# complete = false
# unknown = "keep"                 # or "reject": users and items that their files lack
# future_tolerance_s = 300
# engine = "duckdb"                # or "spark"
# memory_limit_gb = 4.0
# threads = 0                      # all cores

[training]
recipe = "din"
# overrides = ["model.dropout=0.1"]
# mode = "incremental"             # go on from the served release's model; or "full": from scratch every day
# incremental = ["train.epochs=1", "train.warmup_steps=0"]
# replay = "0d"                    # an incremental run trains on so much before what is new, too
# full_every = "7d"                # from scratch once a week; "": never for that
# window = ""                      # from scratch: on so much ("90d"); "": on the whole log
# launcher = []                    # ["torchrun", "--standalone", "--nproc-per-node=2"]

# [retrieval]                      # the model that finds candidates, trained every day
# recipe = ""                      # "linear", "lightgcn"; "": the served release's bundle is taken along
# overrides = []
# full_every = "7d"                # mf, lightgcn, ngcf: on the other days users alone, and the index stays; "": never
# most_new_items = 0.01            # share of new positives of items that the index has not; above it: from scratch

# [export]
# quantize = { "*" = "none" }      # none, fp16, int8, int4, by table
# compute = "float32"              # or "int8"

# [gate]                           # as of `recsys release promote`
# margins = []                     # ["1%", "auc=0.002"]; default: 1%, calibration_error=0.01, coverage=10%
# smallest_segment = 100
# standard_errors = 3.0
# samples = 20000                  # fewest held-out samples that both models are measured on; 0: all
# least_samples = 100              # fewest held-out samples, and fewest to train on
# most_rows_ratio = 0.0            # new events over the mean of the days before; 0: it is only said
# requests = []                    # ["requests"]: refuse if live servers saw other values than the log says

# [states]                         # of long histories
# cold = false                     # promote without them
# users_per_s = 200.0
# active_within = "7d"
# ttl_s = 1209600

[release]
store = "releases"
# promote = true                   # false: push alone; a person promotes
"""


def write_example(file: Path) -> None:
    """Write the example.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    if file.exists():
        raise ConfigError(f"{file} exists; choose another name")
    write_atomically(file, EXAMPLE.encode())
