"""Rank for many users at a time, from asyncio: python examples/async_rank.py [HOST:PORT]"""

import asyncio
import sys

from recsys.client import AsyncClient, Overloaded, RpcError

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"


async def best_item(client: AsyncClient, user: int) -> str:
    try:
        ranking = await client.rank(user=user, candidates=range(1, 101), top_k=1)
    except Overloaded:
        return "the server is full: back off and try again"
    except RpcError as error:  # error.code and error.message say what it was
        return f"failed: {error}"
    return f"item {ranking.items[0]} ({ranking.scores[0]:.4f})"


async def main() -> None:
    # One client, one connection, many calls at a time.
    async with AsyncClient(address, timeout_s=1.0) as client:
        answers = await asyncio.gather(*(best_item(client, user) for user in range(1, 11)))
    for user, answer in enumerate(answers, start=1):
        print(f"user {user}: {answer}")


asyncio.run(main())
