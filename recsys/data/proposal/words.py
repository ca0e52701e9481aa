"""Names of columns in English, in parts, and what they usually mean."""

from __future__ import annotations

import re

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

ID = frozenset({"id", "ids", "key", "code", "no", "number", "idx", "hash", "uuid"})
USER = frozenset("user uid customer visitor member reviewer client account buyer subscriber listener viewer reader"
                 " player rater shopper guest".split())  # fmt: skip
ITEM = frozenset("item iid movie film product sku asin isbn article video song track artist app book content post news"
                 " ad listing business recipe game course job hotel restaurant venue poi photo document doc goods"
                 " offer stock episode anime creative".split())  # fmt: skip
TIME = frozenset("timestamp time ts date datetime created unixtime when".split())
RATING = frozenset("rating ratings rate stars star score grade".split())
ACTION = frozenset("action event type behavior behaviour interaction activity feedback".split())
CLICK = frozenset("click clicked clicks label target conversion converted purchase purchased buy bought like liked"
                  " watched played installed ordered booked applied".split())  # fmt: skip
SHOWN = frozenset("impression impressions imp show shown display displayed exposure expose exposed skip skipped"
                  " dislike ignored dismiss dismissed".split())  # fmt: skip
TOOK = frozenset("click clicks view views buy purchase order transaction pay cart addtocart fav favorite favourite like"
                 " play listen watch read share download install book bookmark save comment follow wishlist pv"
                 " add open finish complete".split())  # fmt: skip
OUTCOME = frozenset("dwell duration watch watched listened seconds secs spent revenue amount total paid quantity qty"
                    " cnt count playtime progress completion review comment position rank".split())  # fmt: skip
CONTEXT = frozenset("hour daytime weekday dayofweek dow weekend isweekend month season weather temperature device"
                    " platform os browser country city region state location locale language lang homework network"
                    " connection channel page placement slot referrer source medium campaign app"
                    " version".split())  # fmt: skip
NUMBER = frozenset("price cost amount age count cnt num quantity qty duration length size weight height width seconds"
                   " minutes hours days distance temperature balance income revenue budget year views likes lat lon"
                   " latitude longitude ratio share percent score popularity".split())  # fmt: skip
CATEGORY = frozenset("category type kind class group genre brand occupation gender sex zip zipcode postcode city"
                     " country region state code language shop seller store merchant department segment tag tags hour"
                     " weekday dayofweek dow month day level".split())  # fmt: skip
VISIT = frozenset("session order invoice request transaction receipt basket cart uuid guid row index ip".split())
OF_USER = frozenset("gender sex age occupation zip zipcode postcode country city region state income segment signup"
                    " member membership job education language".split())  # fmt: skip


def parts(name: str) -> tuple[str, ...]:
    """Parts of a name, in small letters.

    >>> parts("userId"), parts("movieid"), parts("Customer ID"), parts("unixReviewTime")
    (('user', 'id'), ('movie', 'id'), ('customer', 'id'), ('unix', 'review', 'time'))
    """
    found: list[str] = []
    for part in _PART.findall(name):
        low = part.lower()
        stem = low.removesuffix("id")
        found += [stem, "id"] if stem != low and stem in USER | ITEM else [low]
    return tuple(found)


def names_id(name: str, words: frozenset[str]) -> int:
    """2 if a name says that it is an id of one of these, 1 if it is only their word, 0 if neither.

    >>> names_id("user_id", USER), names_id("user", USER), names_id("user_age", USER)
    (2, 1, 0)
    """
    found = parts(name)
    stem = [part for part in found if part not in ID]
    if not stem or not words.issuperset(stem):
        return 0
    return 2 if len(stem) < len(found) or found[-1] in ("uid", "iid", "sku", "asin", "isbn") else 1


def has(name: str, words: frozenset[str]) -> bool:
    """True if a part of the name is one of these."""
    return not words.isdisjoint(parts(name))
