"""Schemes of the URLs of a Redis; in a file that loads no redis-py, as settings and help texts name them."""

SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)
