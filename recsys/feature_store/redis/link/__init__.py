"""Ways to a Redis: one server, Sentinel, Cluster; blocking or on an event loop."""
