"""Write a small made-up log of a shop, to try things with: python examples/make_log.py [FILE]"""

import csv
import random
import sys
import time

path = sys.argv[1] if len(sys.argv) > 1 else "log.csv"
day_s, users, items = 86_400, 300, 200
categories, cities = ["books", "games", "music", "garden", "tools"], ["Berlin", "Lagos", "Lima"]
draw = random.Random(0)
favourites = [draw.sample(categories, 2) for _ in range(users)]
eagerness = [draw.uniform(0.3, 1.7) for _ in range(users)]
start_s = int(time.time()) // day_s * day_s - 30 * day_s  # 30 days, to the last midnight

views = []
for _ in range(20_000):
    user, item = draw.randrange(users), draw.randrange(items)
    category = categories[item % len(categories)]
    chance = (0.5 if category in favourites[user] else 0.1) * eagerness[user]
    moment_s = start_s + draw.randrange(30 * day_s)
    city = cities[user % len(cities)]
    views.append((moment_s, user, item, int(draw.random() < chance), category, city))

with open(path, "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["user_id", "item_id", "timestamp", "clicked", "category", "city"])
    writer.writerows((user, item, moment_s, *rest) for moment_s, user, item, *rest in sorted(views))
print(f"{path}: {len(views):,} views of {items} items by {users} users")
